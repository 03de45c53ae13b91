"""Rules against what layers really do: linear ones against their matrix, others against samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from withstand.core import norms
from withstand.domains import Ball, Box, BoxBall, Elementwise, Linear, Program, Unimodal, propagate
from withstand.domains.linear.linear_inputs import Interval
from withstand.graph.primitives import MaxPool, moved
from withstand.graph.rules.activation_rules import _GELU, _GELU_TANH, _MISH, _SILU
from withstand.models import Normalize
from withstand.operators import OperatorNorms, Shape


class Call(nn.Module):
    """A function as a model."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


# Linear layers: the image of each set in closed form, from the matrix


def _assert_exact(layer: nn.Module, input_shape: Shape, norms_of: OperatorNorms, seed: int = 0) -> None:
    layer = layer.double().eval()
    generator = torch.Generator().manual_seed(seed)
    center = torch.randn(3, *input_shape, generator=generator, dtype=torch.float64)
    halfwidth = torch.rand(3, *input_shape, generator=generator, dtype=torch.float64)
    radius = torch.tensor([0.0, 0.3, 2.0], dtype=torch.float64)
    cut = torch.minimum(halfwidth, radius.reshape(-1, *[1] * len(input_shape)))
    with torch.no_grad():
        zero = layer(torch.zeros(1, *input_shape, dtype=torch.float64))
        unit = torch.eye(math.prod(input_shape), dtype=torch.float64).reshape(-1, *input_shape)
        matrix = (layer(unit) - zero).flatten(1).T
        image, program = layer(center), Program(layer, center)
        ends = center - halfwidth, center + halfwidth
        box, linear = (
            program.run(value, norms_of) for value in (Box(*ends), Linear.of(Interval(*ends), Box(*ends)))
        )
        ball = program.run(Ball(center, radius), norms_of)
        both = program.run(BoxBall(Ball(center, radius), Box(center - cut, center + cut)), norms_of)
    reach = (matrix.abs() @ halfwidth.flatten(1).T).T.reshape(image.shape)
    for exact in (box, linear):
        _assert_close(exact.ends, (image - reach, image + reach))
    rows = torch.cat([torch.zeros(1, len(matrix)), torch.randn(3, len(matrix), generator=generator)]).double()
    worst = linear.monotone(moved(norms.flat)).worst_differences(rows, torch.zeros(3, dtype=torch.int64))
    _assert_close((worst,), (halfwidth.flatten(1) @ (rows @ matrix).abs().T,))
    _assert_close((ball.midpoint, ball.radius), (image, radius * torch.linalg.matrix_norm(matrix, ord=2)))
    rows = matrix.norm(dim=1).reshape(image.shape[1:])
    reach = (matrix.abs() @ cut.flatten(1).T).T.reshape(image.shape)
    reach = torch.minimum(reach, radius.reshape(-1, *[1] * (image.dim() - 1)) * rows)
    _assert_close(both.ends, (image - reach, image + reach))
    _assert_close((both.center, both.ball.radius), (ball.midpoint, ball.radius))


def _assert_close(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@st.composite
def _windows(draw: st.DrawFn, rank: int) -> dict[str, list[int]]:
    """Sides of an image, and a window that fits into it."""
    result: dict[str, list[int]] = {name: [] for name in ("sides", "kernel", "stride", "padding", "dilation")}
    for _ in range(rank):
        kernel, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        padding = draw(st.integers(0, 2))
        least = max(1, dilation * (kernel - 1) + 1 - 2 * padding)
        for name, value in (
            ("sides", draw(st.integers(least, least + 3))),
            ("kernel", kernel),
            ("stride", draw(st.integers(1, 3))),
            ("padding", padding),
            ("dilation", dilation),
        ):
            result[name].append(value)
    return result


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_rules_of_convolutions_of_any_shape_are_exact(exact: OperatorNorms, data: st.DataObject) -> None:
    rank = data.draw(st.sampled_from([1, 2]))
    window, groups = data.draw(_windows(rank)), data.draw(st.integers(1, 3))
    channels, out = groups * data.draw(st.integers(1, 2)), groups * data.draw(st.integers(1, 2))
    build: Any = nn.Conv1d if rank == 1 else nn.Conv2d
    layer = build(
        channels,
        out,
        tuple(window["kernel"]),
        tuple(window["stride"]),
        tuple(window["padding"]),
        tuple(window["dilation"]),
        groups,
        bias=data.draw(st.booleans()),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        nn.init.normal_(layer.weight)
    _assert_exact(layer, (channels, *window["sides"]), exact)


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_rules_of_average_pooling_of_any_shape_are_exact(exact: OperatorNorms, data: st.DataObject) -> None:
    rank = data.draw(st.sampled_from([1, 2]))
    window = data.draw(_windows(rank))
    kernel = [size + 1 for size in window["kernel"]]
    build: Any = nn.AvgPool1d if rank == 1 else nn.AvgPool2d
    layer = build(
        tuple(kernel),
        tuple(window["stride"]),
        tuple(min(padding, size // 2) for padding, size in zip(window["padding"], kernel, strict=True)),
        ceil_mode=data.draw(st.booleans()),
        count_include_pad=data.draw(st.booleans()),
    )
    sides = [max(side, size) for side, size in zip(window["sides"], kernel, strict=True)]
    _assert_exact(layer, (2, *sides), exact)
    outputs = data.draw(st.integers(1, 4))
    _assert_exact(nn.AdaptiveAvgPool1d(outputs), (2, sides[0]), exact)


@pytest.mark.parametrize(
    ("layer", "input_shape"),
    [
        (nn.Linear(5, 3), (5,)),
        (nn.Linear(3, 4, bias=False), (2, 3)),  # the same matrix on each of two rows
        (nn.Conv3d(1, 2, (1, 2, 2), padding=(0, 1, 0)), (1, 2, 2, 3)),
        (nn.Conv2d(2, 3, 3, padding="same", dilation=2), (2, 4, 3)),
        (nn.Conv2d(2, 3, 2, padding="valid"), (2, 3, 3)),
        (nn.AvgPool3d(2, 1), (1, 2, 3, 2)),
        (nn.AdaptiveAvgPool2d((None, 2)), (2, 3, 5)),
        (nn.AdaptiveAvgPool3d(2), (1, 3, 2, 4)),
        (Normalize([0.1, 0.2], [0.5, 2.0]), (2, 2, 3)),
        (nn.BatchNorm1d(4, affine=False), (4,)),
        (nn.BatchNorm3d(2), (2, 1, 2, 2)),
        (Call(lambda x: x.mean(dim=(1, 3), keepdim=True)), (2, 2, 3)),
        (Call(lambda x: torch.mean(x, -1)), (2, 3)),
        (Call(lambda x: x.mean([2])), (2, 3)),
        (Call(lambda x: -(3 - x / 4) * torch.tensor([[1.0], [-2.0]])), (2, 3)),
        (Call(lambda x: x @ torch.arange(6.0).double().reshape(3, 2)), (2, 3)),
        (Call(lambda x: torch.sub(x, 1, alpha=0.3).add(2.0, alpha=3)), (4,)),
    ],
    ids=str,
)
def test_rules_of_linear_operations_are_exact(
    layer: nn.Module, input_shape: Shape, exact: OperatorNorms
) -> None:
    _assert_exact(layer, input_shape, exact)


# Shapes


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.view(x.size(0), -1),
        lambda x: x.view(-1, 24),
        lambda x: x.view(x.shape[0], 4, 6).flatten(1),
        lambda x: torch.reshape(x, (x.size()[0], 24)),
        lambda x: x.reshape([-1, 24]),
        lambda x: torch.flatten(x, start_dim=1),
        lambda x: x.flatten(2).unflatten(1, (1, 2)).squeeze(1).flatten(1),
        lambda x: x.permute(0, 3, 1, 2),
        lambda x: torch.permute(x, dims=[0, 2, 3, 1]),
        lambda x: x.transpose(1, -1).contiguous(),
        lambda x: x.unsqueeze(1).squeeze(),
        lambda x: torch.squeeze(torch.unsqueeze(x, -1), -1),
        lambda x: x[:, 0],
        lambda x: x[..., 1:, 0],
        lambda x: x[:, None, ::2, -1],
        lambda x: x[:, :, : x.ndim - 2],
        lambda x: x.chunk(2, dim=1)[1],
        lambda x: torch.split(x, [1, 2], dim=2)[0],
        lambda x: F.pad(x, (1, -1, 0, 2), value=0.7),
        lambda x: torch.cat([x, x[:, :1]], dim=-3),
        lambda x: torch.concat((x, 2 * x), 1),
        lambda x: x.clone() + x,
    ],
)
def test_rules_of_moves_are_exact(function: Callable[[Tensor], Tensor], exact: OperatorNorms) -> None:
    center = torch.randn(5, 2, 3, 4, dtype=torch.float64)
    halfwidth = torch.rand_like(center)
    lower, upper = propagate(Call(function), Box(center - halfwidth, center + halfwidth), norms=exact).ends
    torch.testing.assert_close(lower, function(center - halfwidth))
    torch.testing.assert_close(upper, function(center + halfwidth))
    ball = propagate(Call(function), Ball(center, torch.full((5,), 0.5, dtype=torch.float64)), norms=exact)
    torch.testing.assert_close(ball.midpoint, function(center))
    moved = [function(center) - function(center + 0.5 * direction) for direction in _units(center)]
    longest = torch.stack(moved).flatten(2).norm(dim=-1).amax(dim=0)
    assert (ball.radius >= longest - 1e-12).all()


def _units(like: Tensor) -> Tensor:
    """Directions of length 1: along each coordinate, and some at random."""
    size = like[0].numel()
    random = torch.randn(20, size, dtype=like.dtype)
    directions = torch.cat([torch.eye(size, dtype=like.dtype), random / random.norm(dim=1, keepdim=True)])
    return directions.reshape(-1, 1, *like.shape[1:])


# Pooling


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_rule_of_max_pooling_stretches_no_more_than_it_says(data: st.DataObject) -> None:
    rank = data.draw(st.sampled_from([1, 2]))
    window = data.draw(_windows(rank))
    padding = [min(pad, size // 2) for pad, size in zip(window["padding"], window["kernel"], strict=True)]
    spans = [
        dilation * (size - 1) + 1 for dilation, size in zip(window["dilation"], window["kernel"], strict=True)
    ]
    sides = [max(side, span) for side, span in zip(window["sides"], spans, strict=True)]
    pool = MaxPool(window["kernel"], window["stride"], padding, window["dilation"], data.draw(st.booleans()))
    images = torch.zeros(1, 1, *sides)
    outputs = pool(images)
    # One coordinate raised far above all others is the maximum of every window that it is in.
    raised = pool(1e6 * torch.eye(images.numel()).reshape(-1, 1, *sides))
    counts = (raised == 1e6).flatten(1).sum(dim=1)
    assert float(counts.max()) <= pool.lipschitz**2 + 1e-9
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 50, 1, *sides, generator=generator)
    away = (one - other).flatten(1).norm(dim=1)
    assert ((pool(one) - pool(other)).flatten(1).norm(dim=1) <= pool.lipschitz * away * (1 + 1e-5)).all()
    assert outputs.shape[2:] == pool(one).shape[2:]


def test_rule_of_max_pooling_reaches_its_stretch() -> None:
    for kernel, stride, dilation, expected in (
        (3, 1, 1, 3),
        (3, 2, 1, 2),
        (2, 2, 1, 1),
        (3, 2, 2, 3),
        (2, 3, 2, 1),
    ):
        pool = MaxPool([kernel], [stride], [0], [dilation])
        assert pool.lipschitz**2 == pytest.approx(expected)
        raised = pool(torch.eye(40)[:, None])
        assert int(raised.flatten(1).sum(dim=1).max()) == expected


# Activations


@pytest.mark.parametrize(
    "layer",
    [
        *(nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(), nn.LeakyReLU(1.5), nn.LeakyReLU(-1.5), nn.PReLU(init=0.2)),
        *(nn.PReLU(init=2.0), nn.ELU(), nn.ELU(1.4), nn.ELU(0.3), nn.CELU(0.6), nn.CELU(2.0), nn.SELU()),
        *(nn.Tanh(), nn.Sigmoid(), nn.LogSigmoid(), nn.Softsign(), nn.Hardsigmoid(), nn.Hardtanh(-2, 3)),
        *(nn.Softplus(), nn.Softplus(0.5), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Mish(), Call(torch.abs)),
    ],
    ids=str,
)
def test_rules_of_activations_have_exact_slopes(layer: nn.Module, exact: OperatorNorms) -> None:
    x = torch.linspace(-40, 40, 800_001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        y = layer.double()(x)
        ball = propagate(layer, Ball(torch.zeros(1, 1).double(), torch.ones(1).double()), norms=exact)
    steepest = float((y.diff(dim=0) / x.diff(dim=0)).abs().max())
    assert steepest * (1 - 1e-9) <= float(ball.radius) <= steepest * (1 + 1e-4)


UNIMODAL: Mapping[str, Unimodal] = {"gelu": _GELU, "gelu-tanh": _GELU_TANH, "silu": _SILU, "mish": _MISH}


@pytest.mark.parametrize("unimodal", UNIMODAL.values(), ids=list(UNIMODAL))
def test_rules_of_unimodal_functions_have_exact_bottom_and_slope(unimodal: Unimodal) -> None:
    x = torch.linspace(-40, 40, 4_000_001, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(unimodal.function(x).sum(), x)
    y = unimodal.function(x.detach())
    assert isinstance(unimodal.slope, float)
    assert slopes.abs().max() <= unimodal.slope
    assert slopes.abs().max() == pytest.approx(unimodal.slope, rel=1e-9)
    assert y.min() >= unimodal.value
    assert y.min() == pytest.approx(unimodal.value, rel=1e-9)
    assert (slopes[x < unimodal.position - 1e-9] <= 1e-12).all()
    assert (slopes[x > unimodal.position + 1e-9] >= -1e-12).all()


@given(lower=st.floats(-6, 6), width=st.floats(0, 6), name=st.sampled_from(sorted(UNIMODAL)))
@settings(max_examples=100, deadline=None)
def test_rules_of_unimodal_functions_have_the_exact_image_of_an_interval(
    lower: float, width: float, name: str
) -> None:
    unimodal = UNIMODAL[name]
    ends = torch.tensor([[lower], [lower + width]], dtype=torch.float64)
    result = Box(ends[:1], ends[1:]).unimodal(unimodal)
    inside = unimodal.function(torch.linspace(lower, lower + width, 2001, dtype=torch.float64))
    assert float(result.lower) == pytest.approx(float(inside.min()), abs=1e-5)
    assert float(result.lower) <= float(inside.min()) + 1e-15
    assert float(result.upper) == pytest.approx(float(inside.max()), abs=1e-15)


@pytest.mark.parametrize(
    ("layer", "spellings"),
    [
        (nn.ReLU(), [F.relu, torch.relu, lambda x: x.relu(), F.relu_, torch.relu_, lambda x: x.relu_()]),
        (
            nn.ReLU(),
            [lambda x: F.relu(x, inplace=True), lambda x: x.clamp(min=0), lambda x: torch.clamp_min(x, 0)],
        ),
        (nn.ReLU6(inplace=True), [F.relu6, lambda x: torch.clip(x, 0, 6), lambda x: F.hardtanh(x, 0, 6)]),
        (nn.Hardtanh(0.0, 0.5), [lambda x: x.clamp(0, 0.5), lambda x: x.relu().clamp_max(0.5)]),
        (nn.Tanh(), [F.tanh, lambda x: torch.tanh(x), lambda x: x.tanh(), lambda x: x.tanh_()]),
        (nn.Sigmoid(), [F.sigmoid, torch.sigmoid, lambda x: x.sigmoid(), lambda x: x.sigmoid_()]),
        (nn.LogSigmoid(), [F.logsigmoid]),
        (nn.Softsign(), [F.softsign]),
        (nn.Hardsigmoid(), [F.hardsigmoid]),
        (nn.Softplus(2.0, 30.0), [lambda x: F.softplus(x, 2.0, threshold=30.0)]),
        (nn.SELU(), [F.selu, torch.selu]),
        (nn.ELU(0.7, inplace=True), [lambda x: F.elu(x, 0.7), lambda x: F.elu_(x, alpha=0.7)]),
        (nn.CELU(0.7), [lambda x: F.celu(x, 0.7)]),
        (nn.GELU(), [F.gelu]),
        (nn.GELU("tanh"), [lambda x: F.gelu(x, approximate="tanh")]),
        (nn.SiLU(), [F.silu, lambda x: F.silu(x, inplace=True)]),
        (nn.Mish(), [F.mish]),
        (nn.LeakyReLU(-1.0), [torch.abs, lambda x: x.abs(), abs, lambda x: F.leaky_relu_(x, -1.0)]),
        (
            nn.LeakyReLU(3.0),
            [lambda x: F.leaky_relu(x, 3.0), lambda x: F.prelu(x, torch.tensor([3.0]).double())],
        ),
        (nn.MaxPool2d(2, 1), [lambda x: F.max_pool2d(x, 2, 1), lambda x: torch.max_pool2d(x, (2, 2), [1])]),
        (nn.MaxPool2d(2), [lambda x: F.max_pool2d(x, kernel_size=2), lambda x: torch.max_pool2d(x, 2)]),
        (
            nn.AvgPool2d((1, 2)),
            [lambda x: F.avg_pool2d(x, (1, 2)), lambda x: F.avg_pool2d(x, [1, 2], stride=[])],
        ),
        (nn.AdaptiveAvgPool2d(1), [lambda x: F.adaptive_avg_pool2d(x, 1), lambda x: x.mean((-1, -2), True)]),
        (
            nn.ZeroPad2d((0, 1, 2, 0)),
            [lambda x: F.pad(F.pad(x, (0, 1)), (0, 0, 2, 0)), lambda x: F.pad(x, [0, 1, 2, 0], "constant")],
        ),
        (
            nn.Unflatten(1, (1, 2)),
            [lambda x: x.unflatten(1, (1, 2)), lambda x: torch.unflatten(x, 1, (1, -1))],
        ),
        (
            nn.Identity(),
            [lambda x: F.dropout(x, training=False), lambda x: F.alpha_dropout(x, 0.1)],
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, nn.Module) else "",
)
def test_rules_of_all_spellings_are_one(
    layer: nn.Module, spellings: list[Callable[[Tensor], Tensor]], exact: OperatorNorms
) -> None:
    center = 2 * torch.randn(3, 2, 4, 2, dtype=torch.float64)
    around = BoxBall(Ball(center, torch.tensor([0.0, 0.2, 1.0]).double()), Box(center - 0.3, center + 0.1))
    expected = propagate(layer, around, norms=exact)
    for spelling in spellings:
        actual = propagate(Call(spelling), around, norms=exact)
        _assert_close((*actual.ends, actual.center), (*expected.ends, expected.center))
        _assert_close((actual.ball.radius,), (expected.ball.radius,))


def test_rule_of_softplus_bounds_its_jump() -> None:
    """Where torch goes over from softplus to the identity, values fall."""
    function: Callable[[Tensor], Tensor] = nn.Softplus(beta=2.0, threshold=3.0)
    at = torch.tensor([[1.5]], dtype=torch.float64)
    beside = at + 1e-6
    assert function(beside) < function(at) - 0.02
    for value in (Box(at, beside), BoxBall(Ball(at, torch.tensor([1e-6])), Box(at, beside))):
        image = propagate(nn.Softplus(beta=2.0, threshold=3.0), value)
        lower, upper = image.ends
        assert lower <= function(beside)
        assert upper >= function(at)
    ball = propagate(nn.Softplus(beta=2.0, threshold=3.0), Ball(at, torch.tensor([1e-6])))
    assert ball.radius >= function(at) - function(beside)
    usual = propagate(nn.Softplus(), Box(at, at)).ends
    assert usual[1] - usual[0] <= 1e-8


def test_rule_of_an_elementwise_function_takes_a_learnt_slope() -> None:
    slope = torch.tensor(1.5, requires_grad=True)
    steep = Elementwise(lambda x: x * slope, slope)
    ball = Ball(torch.ones(1, 2), torch.ones(1)).monotone(steep)
    ball.radius.sum().backward()
    assert slope.grad == 1.0
