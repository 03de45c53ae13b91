"""What constraints do to attention, recurrent, bilinear and transposed layers, and to unknown matrices."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from typing_extensions import override

from withstand.constraints import SpectralBall, orthogonal_, spectral_norm_
from withstand.operators import GuaranteedNorms, places, weights
from withstand.penalties import SpectralNorm
from withstand.types import ModelError

RADIUS = 0.5


def _loud(layer: nn.Module) -> nn.Module:
    """In float64, with large weights."""
    torch.manual_seed(0)
    layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=2)
    return layer


def _written_out(function: Callable[[Tensor], Tensor], *shape: int) -> Tensor:
    """The matrix of a function that is affine, on inputs of a shape."""
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    units = torch.eye(zero.numel(), dtype=torch.float64).view(-1, *shape)
    return (function(units) - function(zero)).detach().flatten(1).T


def _norm(matrix: Tensor) -> float:
    norm: float = torch.linalg.matrix_norm(matrix, ord=2).item()
    return norm


# Attention

ATTENTION: dict[str, Callable[[], nn.MultiheadAttention]] = {
    "packed": lambda: nn.MultiheadAttention(4, 2, batch_first=True),
    "sizes of their own": lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=5, batch_first=True),
    "no bias": lambda: nn.MultiheadAttention(4, 1, bias=False, add_bias_kv=True, batch_first=True),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_spectral_ball_holds_each_projection_of_attention_inside(name: str) -> None:
    layer = ATTENTION[name]()
    net = nn.Sequential(_loud(layer))
    assert [weight.name for weight in weights(net)] == [
        *["0.q_proj_weight", "0.k_proj_weight", "0.v_proj_weight", "0.out_proj"]
    ]
    biases = {key: value.clone() for key, value in net.state_dict().items() if "bias" in key}
    SpectralBall(RADIUS).project_(net)
    assert [_norm(weight.matrix) for weight in weights(net)] == pytest.approx([RADIUS] * 4, rel=1e-12)
    assert all(net.state_dict()[key].equal(value) for key, value in biases.items())
    # On a single key the layer is the product of its last two projections.
    if layer.bias_k is None:
        query = torch.rand(1, 1, 4, dtype=torch.float64)

        def through(value: Tensor) -> Tensor:
            key = torch.zeros(len(value), 1, layer.kdim, dtype=torch.float64)
            answer: Tensor = layer(query.expand(len(value), -1, -1), key, value)[0]
            return answer

        assert _norm(_written_out(through, 1, layer.vdim)) <= RADIUS**2 * (1 + 1e-9)


def test_spectral_ball_clips_each_projection_alone_as_if_it_lay_by_itself() -> None:
    layer = ATTENTION["packed"]()
    _loud(layer)
    with torch.no_grad():
        layer.in_proj_weight[:4] *= 0.01  # the first is inside already
    before = layer.in_proj_weight.detach().clone()
    parts = [nn.Linear(4, 4, bias=False).double() for _ in range(3)]
    with torch.no_grad():
        for part, value in zip(parts, before.chunk(3), strict=True):
            part.weight.copy_(value)
    SpectralBall(RADIUS).project_(layer)
    SpectralBall(RADIUS).project_(nn.Sequential(*parts))
    torch.testing.assert_close(layer.in_proj_weight, torch.cat([part.weight for part in parts]))
    assert layer.in_proj_weight[:4].equal(before[:4])


def test_spectral_ball_has_a_subspace_for_each_projection() -> None:
    net, ball = nn.Sequential(_loud(ATTENTION["packed"]())), SpectralBall(RADIUS, every=10, subspace=2)
    for step in range(1, 4):
        ball.after_step_(net, step=step, progress=1.0)
    assert len(ball.bases) == 4
    assert all(_norm(weight.matrix) <= RADIUS * (1 + 1e-6) for weight in weights(net))


# Recurrent layers

RECURRENT: dict[str, Callable[[], nn.Module]] = {
    "LSTM": lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2),
    "GRU": lambda: nn.GRU(3, 4, bias=False),
    "RNN": lambda: nn.RNN(3, 4, nonlinearity="relu"),
    "LSTMCell": lambda: nn.LSTMCell(3, 4),
    "GRUCell": lambda: nn.GRUCell(3, 4),
    "RNNCell": lambda: nn.RNNCell(3, 4),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_spectral_ball_holds_recurrent_weights_and_each_of_their_gates_inside(name: str) -> None:
    layer = _loud(RECURRENT[name]())
    x = torch.rand(2, 3, dtype=torch.float64) if "Cell" in name else torch.rand(2, 5, 3, dtype=torch.float64)
    before = layer(x)[0]
    SpectralBall(RADIUS).project_(layer)
    assert not torch.equal(layer(x)[0], before)  # what runs is what was projected
    gates = {"LSTM": 4, "GRU": 3}.get(name.removesuffix("Cell"), 1)
    for key, value in layer.named_parameters():
        if not key.startswith("bias"):
            assert _norm(value) == pytest.approx(RADIUS, rel=1e-12)
            assert all(_norm(gate) <= RADIUS * (1 + 1e-12) for gate in value.chunk(gates))


# Bilinear layers and transposed convolutions


def test_spectral_ball_bounds_a_bilinear_layer_by_the_lengths_of_its_inputs() -> None:
    layer = nn.Bilinear(3, 4, 5, bias=False)
    _loud(layer)
    SpectralBall(RADIUS).project_(layer)
    with torch.no_grad():
        one, two = torch.randn(200, 3, dtype=torch.float64), torch.randn(200, 4, dtype=torch.float64)
        for _ in range(20):  # climb to the best pair of unit vectors
            one, two = F.normalize(one), F.normalize(two)
            output = F.normalize(layer(one, two))
            one = torch.einsum("bo,oij,bj->bi", output, layer.weight, two)
            two = torch.einsum("bo,oij,bi->bj", output, layer.weight, F.normalize(one))
        lengths = layer(F.normalize(one), F.normalize(two)).norm(dim=1)
    assert 0.3 * RADIUS < lengths.max() <= RADIUS * (1 + 1e-9)


TRANSPOSED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain": (lambda: nn.ConvTranspose1d(2, 3, 3), (2, 5)),
    "stride": (lambda: nn.ConvTranspose2d(2, 2, 3, stride=2, padding=1, output_padding=1), (2, 3, 2)),
    "groups": (lambda: nn.ConvTranspose2d(4, 6, 2, stride=(1, 3), groups=2), (4, 2, 3)),
    "dilation": (lambda: nn.ConvTranspose1d(2, 2, 3, stride=2, dilation=2, padding=2), (2, 5)),
    "output padding beyond the stride": (
        lambda: nn.ConvTranspose1d(2, 2, 3, dilation=3, padding=1, output_padding=2),
        (2, 5),
    ),
    "volumes": (lambda: nn.ConvTranspose3d(2, 1, 2, stride=2, padding=1), (2, 2, 3, 2)),
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_guaranteed_norm_of_a_transposed_convolution_is_that_of_its_matrix(name: str) -> None:
    make, shape = TRANSPOSED[name]
    layer = _loud(make())
    (place,) = places(layer, torch.zeros(1, *shape, dtype=torch.float64))
    bound = GuaranteedNorms().of(place.operator, place.input_shape, "").item()
    true = _norm(_written_out(layer, *shape))
    assert true <= bound
    if name != "output padding beyond the stride":  # there the operator has an output more
        assert bound == pytest.approx(true, rel=1e-5)


@pytest.mark.parametrize("name", TRANSPOSED)
def test_spectral_ball_in_operator_form_holds_transposed_convolutions_inside(name: str) -> None:
    make, shape = TRANSPOSED[name]
    layer = _loud(make())
    net = nn.Sequential(nn.Unflatten(1, shape), layer)
    size = torch.Size(shape).numel()
    SpectralBall(RADIUS, form="operator", input_shape=(size,)).project_(net)
    assert 0.3 * RADIUS < _norm(_written_out(layer, *shape)) <= RADIUS * (1 + 1e-9)


# What is no weight of a layer of torch


class _Bare(nn.Module):
    """A matrix that is used without a layer, a token, and a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Parameter(torch.eye(3))
        self.token, self.scale = nn.Parameter(torch.ones(1, 1, 3)), nn.Parameter(torch.ones(3))
        self.others = nn.ParameterList([torch.eye(2)])

    @override
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.first(x), self.second) * self.scale


class _Adapted(nn.Linear):
    """A linear layer with a correction of low rank beside its weight."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.down, self.up = nn.Parameter(torch.ones(1, 3)), nn.Parameter(torch.ones(3, 1))


@pytest.mark.parametrize(
    ("model", "names"),
    [(_Bare(), "'second', 'token', 'others.0'"), (nn.Sequential(_Adapted()), "'0.down', '0.up'")],
)
def test_spectral_ball_and_penalty_name_matrices_that_no_layer_of_torch_has(
    model: nn.Module, names: str
) -> None:
    images, labels = torch.rand(2, 3), torch.zeros(2, dtype=torch.int64)
    with pytest.warns(UserWarning, match=rf"left as they are: {names}\. Put a matrix"):
        SpectralBall(RADIUS).project_(model)
    with pytest.warns(UserWarning, match=names):
        SpectralNorm()(model, images, labels)
    with pytest.warns(UserWarning, match=names):
        spectral_norm_(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            with pytest.raises(ModelError, match="is parametrised"):
                SpectralBall(RADIUS).project_(model)
    assert len(caught) == 1  # not once a step


def test_spectral_ball_in_operator_form_warns_once() -> None:
    model, ball = _Bare(), SpectralBall(RADIUS, form="operator", input_shape=(3,))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for step in range(1, 4):
            ball.after_step_(model, step=step, progress=1.0)
    assert len(caught) == 1
    assert _norm(model.first.weight) <= RADIUS * (1 + 1e-6)


def test_weights_name_what_they_do_not_know_where_nothing_is_known() -> None:
    with pytest.raises(ModelError, match="what 'weight' do is not known"):
        weights(nn.Embedding(2, 3))


def test_parametrised_matrix_of_an_own_module_is_named_by_its_own_name() -> None:
    model = _Bare()
    parametrizations.orthogonal(model, "second")
    with pytest.warns(UserWarning, match=r"left as they are: 'token', 'second', 'others\.0'\."):
        assert [weight.name for weight in weights(model)] == ["first"]


# Parametrisations and hooks


@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, nn.utils.spectral_norm, parametrizations.orthogonal])
@pytest.mark.parametrize(
    ("make", "parameter"),
    [(ATTENTION["packed"], "in_proj_weight"), (RECURRENT["LSTM"], "weight_hh_l1")],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_constraint_refuses_computed_weights_of_layers_of_several(
    wrap: Callable[[nn.Module, str], nn.Module], make: Callable[[], nn.Module], parameter: str
) -> None:
    net = nn.Sequential(wrap(make(), parameter))
    for change in (SpectralBall(RADIUS).project_, orthogonal_, spectral_norm_):
        with pytest.raises(ModelError, match=r"'0\..*parametrised"):
            change(net)
    norms = [_norm(weight.matrix) for weight in weights(net)]  # the value is known all the same
    assert all(norm > 0 for norm in norms)


@pytest.mark.parametrize("change", [orthogonal_, spectral_norm_])
@pytest.mark.parametrize(
    "make", [*ATTENTION.values(), RECURRENT["LSTM"], RECURRENT["GRUCell"], lambda: nn.Bilinear(3, 3, 4)]
)
@pytest.mark.filterwarnings("ignore:.*oneDNN")
def test_parametrisation_reaches_every_weight_of_a_layer(
    change: Callable[[nn.Module], None], make: Callable[[], nn.Module]
) -> None:
    layer = _loud(make())
    change(layer)
    for _ in range(200 if change is spectral_norm_ else 1):  # as many power iterations
        norms = [_norm(weight.matrix) for weight in weights(layer)]
    assert norms == pytest.approx([1] * len(norms), rel=1e-4)
    assert all(weight.parametrised for weight in weights(layer))


def test_parametrisation_of_attention_is_what_runs_in_both_modes() -> None:
    layer = ATTENTION["packed"]().eval()
    orthogonal_(layer)
    x = torch.rand(2, 3, 4)
    for gradient in (True, False):  # without, torch may run fused code
        with torch.set_grad_enabled(gradient):
            plain = ATTENTION["packed"]().eval()
            plain.load_state_dict(
                {
                    "in_proj_weight": layer.in_proj_weight,
                    "in_proj_bias": layer.in_proj_bias,
                    "out_proj.weight": layer.out_proj.weight,
                    "out_proj.bias": layer.out_proj.bias,
                }
            )
            torch.testing.assert_close(layer(x, x, x)[0], plain(x, x, x)[0])
    parametrize.remove_parametrizations(layer, "in_proj_weight")
    assert [_norm(part) for part in layer.in_proj_weight.chunk(3)] == pytest.approx([1] * 3, rel=1e-4)
