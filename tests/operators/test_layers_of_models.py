from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from typing_extensions import override

from withstand.operators import Convolution, Dense, places, weights
from withstand.types import ModelError


def _names(model: nn.Module) -> list[str]:
    return [weight.name for weight in weights(model)]


def test_weights_are_those_of_every_linear_layer_and_convolution_alone() -> None:
    convolutions: list[nn.Module] = [
        *[nn.Conv1d(1, 2, 3), nn.Conv2d(1, 2, 3), nn.Conv3d(1, 2, 3)],
        *[nn.ConvTranspose1d(1, 2, 3), nn.ConvTranspose2d(1, 2, 3), nn.ConvTranspose3d(1, 2, 3)],
    ]
    norms = [nn.BatchNorm2d(2), nn.LayerNorm(2), nn.Embedding(3, 2), nn.PReLU()]
    model = nn.Sequential(nn.Sequential(*norms, *convolutions), nn.Linear(2, 3))
    with pytest.warns(UserWarning, match=r"left as they are: '0\.2\.weight'\. Put"):
        result = weights(model)
    assert [weight.name for weight in result] == [f"0.{number}" for number in range(4, 10)] + ["1"]
    assert [tuple(weight.matrix.shape) for weight in result] == [
        *[(2, 3), (2, 9), (2, 27), (1, 6), (1, 18), (1, 54), (3, 2)]
    ]


def test_weight_matrix_is_the_reshaped_kernel_with_its_gradient() -> None:
    layer = nn.Conv2d(2, 3, (1, 2))
    (weight,) = weights(layer)
    assert weight.matrix.equal(layer.weight.reshape(3, 4))
    torch.autograd.backward(weight.matrix.sum())
    assert layer.weight.grad is not None


def test_weights_that_are_shared_come_once() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    assert _names(nn.Sequential(first, second, first)) == ["0"]
    assert len(weights(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))) == 2


def test_weights_that_are_parametrised_have_their_value() -> None:
    layer = parametrizations.weight_norm(nn.Linear(3, 2))
    (weight,) = weights(layer)
    assert weight.parametrised
    assert weight.value.equal(layer.weight)
    with torch.no_grad():
        layer.parametrizations["weight"].original0.mul_(2)
    assert weight.value.equal(layer.weight)
    assert not weights(nn.Linear(3, 2))[0].parametrised


def test_weights_of_a_compiled_model_have_the_names_of_the_original() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    compiled = torch.compile(model, backend="eager")
    assert isinstance(compiled, nn.Module)
    assert _names(compiled) == ["0"]


def test_weights_refuse_a_model_that_has_none() -> None:
    with pytest.raises(ModelError, match="Flatten has no linear layer"):
        weights(nn.Flatten())


# Operators


def _net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.Conv2d(4, 2, 3, padding="same", groups=2, dilation=2),
        nn.Conv2d(2, 2, (1, 2), padding="valid"),
        nn.Flatten(),
        nn.Linear(40, 3),
    )


def test_place_operators_are_those_that_the_layers_apply() -> None:
    model = _net().double()
    image = torch.rand(1, 1, 9, 10, dtype=torch.float64)
    result = places(model, image.expand(2, -1, -1, -1))
    assert [(place.name, place.input_shape) for place in result] == [
        *[("0", (1, 9, 10)), ("1", (4, 5, 5)), ("2", (2, 5, 5)), ("4", (40,))]
    ]
    value = image
    layers, operators = [*model], [place.operator for place in result]
    for layer, operator in zip([*layers[:3], layers[4]], operators, strict=True):
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        assert layer.bias is not None
        value = value.flatten(1) if isinstance(layer, nn.Linear) else value
        given, value = value, layer(value)
        bias = layer.bias.view(-1, *[1] * (value.dim() - 2))
        torch.testing.assert_close(operator.apply(given), value - bias)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_place_operator_has_a_transposed_convolution_as_its_adjoint(stride: int) -> None:
    layer = nn.ConvTranspose2d(4, 6, 3, stride=stride, padding=1, bias=False, groups=2, dilation=2)
    (place,) = places(layer.double(), torch.rand(1, 4, 4, 3, dtype=torch.float64))
    value = torch.rand(1, 4, 4, 3, dtype=torch.float64)
    assert place.input_shape == layer(value).shape[1:]
    torch.testing.assert_close(place.operator.adjoint(value, place.input_shape), layer(value))


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1)
        self.other = nn.Conv1d(1, 1, 3)
        self.other.weight = self.conv.weight

    @override
    def forward(self, x: Tensor) -> Tensor:
        full = self.conv(self.conv(input=x))
        half: Tensor = self.conv(full[..., ::2])
        return self.other(half) if self.training else half


def test_places_are_one_for_each_size_and_use_of_a_weight() -> None:
    model = _Twice()
    result = places(model, torch.rand(1, 1, 8))
    assert [(place.name, place.input_shape) for place in result] == [("conv", (1, 8)), ("conv-1", (1, 4))]
    assert result[0].weight.value is result[1].weight.value
    assert model.training


class _Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.extra, self.linear = nn.Conv1d(1, 1, 3), nn.Conv1d(1, 1, 3), nn.Linear(2, 2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x)
        return result


def test_places_refuse_a_convolution_that_takes_no_part() -> None:
    with pytest.raises(ModelError, match="'extra' takes no part"):
        places(_Unused(), torch.rand(1, 1, 8))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular"), "has 'circular'"),
        (nn.Conv1d(1, 1, 2, padding="same"), "pads one side more"),
    ],
)
# Torch warns of it once a process.
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
def test_place_operator_refuses_padding_by_other_than_zeros(layer: nn.Module, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        places(layer, torch.rand(1, 1, 8))


def test_places_leave_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(18, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = places(model, torch.rand(3, 1, 5, 5))
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert [type(place.operator) for place in result] == [Convolution, Dense]
