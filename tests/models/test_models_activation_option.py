"""The option ``activation`` of the builders without pooling, and the activations that sort."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from withstand.models import GroupSort, MinMax, create
from withstand.models.layers import ActivationName, activation_named
from withstand.types import ModelError

LAYERS: dict[ActivationName, type[nn.Module]] = {
    "relu": nn.ReLU,
    "minmax": MinMax,
    "leaky-relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}
# How many activations each has: one after each convolution and between the linear layers.
BUILDERS = {"cnn-small": 3, "cnn-4c3f": 6, "cnn-6c2f": 7, "cnn-8c2f": 9, "mlp": 2}
SHAPE = (1, 28, 28)


def _created(name: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return create(name, input_shape=SHAPE, num_classes=5, **options)


def _activations(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, tuple(LAYERS.values()))]


def test_activation_option_has_a_layer_for_every_name() -> None:
    assert set(LAYERS) == set(get_args(ActivationName))


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("activation", LAYERS)
def test_activation_option_sets_every_activation(name: str, activation: ActivationName) -> None:
    model = _created(name, activation=activation)
    result = _activations(model)
    assert [type(layer) for layer in result] == [LAYERS[activation]] * BUILDERS[name]
    assert len(set(map(id, result))) == len(result)  # each a layer of its own
    assert model(torch.zeros(2, *SHAPE, device="meta")).shape == (2, 5)


@pytest.mark.parametrize("name", BUILDERS)
def test_activation_option_is_relu_by_default_and_changes_no_weight(name: str) -> None:
    torch.manual_seed(0)
    plain = create(name, input_shape=(1, 22, 22), num_classes=3)
    torch.manual_seed(0)
    sorting = create(name, input_shape=(1, 22, 22), num_classes=3, activation="minmax")
    assert str(plain) == str(create(name, input_shape=(1, 22, 22), num_classes=3, activation="relu"))
    for one, other in zip(plain.parameters(), sorting.parameters(), strict=True):
        assert torch.equal(one, other)
    images = torch.rand(2, 1, 22, 22)
    assert not torch.allclose(plain(images), sorting(images))


def test_activation_follows_batch_norm() -> None:
    layers = list(_created("cnn-small", activation="minmax", batch_norm=True).children())
    kinds = [nn.Conv2d, nn.BatchNorm2d, MinMax]
    assert [type(layer) for layer in layers[:6]] == [*kinds, *kinds]


@pytest.mark.parametrize("name", BUILDERS)
def test_activation_option_suggests_the_nearest_name(name: str) -> None:
    with pytest.raises(ModelError, match=re.escape("no activation 'min-max'; did you mean 'minmax'?")):
        create(name, input_shape=SHAPE, num_classes=5, activation="min-max")
    with pytest.raises(ModelError, match="no activation 3"):
        create(name, input_shape=SHAPE, num_classes=5, activation=3)


def test_activation_option_refuses_to_pair_an_odd_width() -> None:
    model = create("mlp", input_shape=SHAPE, num_classes=5, hidden=[7], activation="minmax")
    with pytest.raises(ModelError, match="got 7 of them; choose an even width"):
        model(torch.rand(2, *SHAPE))
    with pytest.raises(ModelError, match="cannot split 7 channels into groups of 3"):
        GroupSort(3)(torch.rand(2, 7))
    with pytest.raises(ModelError, match="got group_size=1"):
        GroupSort(1)
    assert activation_named("minmax") is MinMax


# What sorting does


def test_minmax_sorts_channel_k_of_both_halves() -> None:
    x = torch.tensor([[3.0, 1.0, 2.0, 4.0]])
    assert MinMax()(x).tolist() == [[2.0, 1.0, 3.0, 4.0]]


def test_group_sort_sorts_neighbours() -> None:
    x = torch.tensor([[3.0, 1.0, 2.0, 9.0, 8.0, 7.0]])
    assert GroupSort(3)(x).tolist() == [[1.0, 2.0, 3.0, 7.0, 8.0, 9.0]]
    assert GroupSort(2)(x).tolist() == [[1.0, 3.0, 2.0, 9.0, 7.0, 8.0]]
    assert repr(GroupSort(3)) == "GroupSort(group_size=3)"


@pytest.mark.parametrize("shape", [(12,), (12, 5), (12, 3, 4), (12, 2, 3, 2)])
@pytest.mark.parametrize("layer", [MinMax(), GroupSort(2), GroupSort(3), GroupSort(12)], ids=str)
def test_sorting_permutes_channels_place_by_place(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    sorted_x = layer(x)
    assert sorted_x.shape == x.shape
    torch.testing.assert_close(sorted_x.sort(dim=1).values, x.sort(dim=1).values, rtol=0, atol=0)
    torch.testing.assert_close(layer(sorted_x), sorted_x, rtol=0, atol=0)


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_sorting_is_1_lipschitz_and_keeps_the_length_of_gradients(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = (scale * torch.randn(2, 5, 12, 3, generator=generator, dtype=torch.float64)).unbind()
    upstream = torch.randn(5, 12, 3, generator=generator, dtype=torch.float64)
    for layer in (MinMax(), GroupSort(4)):
        x = x.detach().requires_grad_()
        moved: Tensor = layer(x) - layer(y)
        for order in (1, 2, float("inf")):
            assert moved.norm(order) <= (x - y).norm(order) * (1 + 1e-12)
        (gradient,) = torch.autograd.grad(layer(x), x, upstream)
        torch.testing.assert_close(gradient.norm(), upstream.norm())
