"""Moments of piecewise linear functions against numerical integration."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from withstand.moments import RECTIFIER, Hinges, hinged, hinged_gain, rectified

_Integrated = Callable[..., tuple[float, float]]
_Function = Callable[[Tensor], Tensor]

FUNCTIONS: dict[str, tuple[Hinges, _Function]] = {
    "relu": (RECTIFIER, torch.relu),
    "relu-written-out": (Hinges((0.0,), (1.0,)), torch.relu),
    "leaky-relu": (Hinges((0.0,), (0.8,), slope=0.2), partial(F.leaky_relu, negative_slope=0.2)),
    "abs": (Hinges((0.0,), (2.0,), slope=-1.0), torch.abs),
    "relu6": (Hinges((0.0, 6.0), (1.0, -1.0)), F.relu6),
    "hardtanh": (
        Hinges((-0.3, 0.2), (1.0, -1.0), intercept=-0.3),
        partial(F.hardtanh, min_val=-0.3, max_val=0.2),
    ),
    "hardsigmoid": (Hinges((-3.0, 3.0), (1 / 6, -1 / 6)), F.hardsigmoid),
    "clamp-below": (Hinges((0.7,), (1.0,), intercept=0.7), partial(torch.clamp, min=0.7)),
    "clamp-above": (Hinges((0.7,), (-1.0,), slope=1.0), partial(torch.clamp, max=0.7)),
    "softshrink": (Hinges((-0.5, 0.5), (-1.0, 1.0), slope=1.0, intercept=0.5), F.softshrink),
    "identity": (Hinges((), (), slope=1.0), lambda x: x),
}


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _value(hinges: Hinges, x: Tensor) -> Tensor:
    """The function itself."""
    value = hinges.intercept + hinges.slope * x
    for position, bend in zip(hinges.positions, hinges.bends, strict=True):
        value = value + bend * torch.relu(x - position)
    return value


@st.composite
def _any_hinges(draw: st.DrawFn) -> Hinges:
    numbers = st.floats(-2, 2)
    positions = sorted(draw(st.lists(numbers, max_size=4)))
    bends = draw(st.lists(numbers, min_size=len(positions), max_size=len(positions)))
    return Hinges(positions, bends, slope=draw(numbers | st.just(0.0)), intercept=draw(numbers))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_hinges_are_the_function(name: str) -> None:
    hinges, function = FUNCTIONS[name]
    points = torch.linspace(-9, 9, 181, dtype=torch.float64)
    torch.testing.assert_close(_value(hinges, points), function(points), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_hinges_moments_of_known_functions_are_integrals(integrated: _Integrated, name: str) -> None:
    hinges, function = FUNCTIONS[name]
    for mean in (-4.0, -0.3, 0.0, 0.1, 2.5, 7.0):
        for std in (0.05, 0.4, 3.0):
            actual = hinged(_number(mean), _number(std * std), hinges)
            expected = integrated(function, mean, std, kinks=hinges.positions)
            assert actual[0].item() == pytest.approx(expected[0], rel=1e-9, abs=1e-12)
            assert actual[1].item() == pytest.approx(expected[1], rel=1e-8, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(hinges=_any_hinges(), mean=st.floats(-4, 4), std=st.floats(0.01, 3))
def test_hinges_moments_are_integrals(
    integrated: _Integrated, hinges: Hinges, mean: float, std: float
) -> None:
    actual = hinged(_number(mean), _number(std * std), hinges)
    expected = integrated(partial(_value, hinges), mean, std, kinks=hinges.positions)
    assert actual[0].item() == pytest.approx(expected[0], rel=1e-9, abs=1e-9)
    assert actual[1].item() == pytest.approx(expected[1], rel=1e-7, abs=1e-9 * std**2)


def test_hinges_may_differ_by_channel() -> None:
    slopes = torch.tensor([0.0, 0.3, 1.0, 2.0], dtype=torch.float64)[:, None]
    mean = torch.randn(2, 4, 5, dtype=torch.float64)
    variance = 0.1 + torch.rand(1, 4, 5, dtype=torch.float64)
    actual = hinged(mean, variance, Hinges((-0.2, 0.4), (1 - slopes, slopes), slope=slopes))
    gain = hinged_gain(mean, variance, Hinges((-0.2, 0.4), (1 - slopes, slopes), slope=slopes))
    for channel, slope in enumerate(slopes.flatten().tolist()):
        own = Hinges((-0.2, 0.4), (1 - slope, slope), slope=slope)
        expected = hinged(mean[:, channel], variance[:, channel], own)
        torch.testing.assert_close((actual[0][:, channel], actual[1][:, channel]), expected)
        torch.testing.assert_close(gain[:, channel], hinged_gain(mean[:, channel], variance[:, channel], own))


def test_hinges_gradients_reach_the_slopes() -> None:
    slopes = torch.tensor([0.1, 0.6], dtype=torch.float64, requires_grad=True)
    mean, variance = _number(0.2).expand(3, 2), _number(0.5).expand(1, 2)
    assert torch.autograd.gradcheck(
        lambda slope: hinged(mean, variance, Hinges((0.1,), (1 - slope,), slope=slope)), (slopes,)
    )


def test_hinges_of_the_rectifier_are_the_rectifier() -> None:
    mean, variance = torch.randn(20), torch.rand(20)
    torch.testing.assert_close(
        hinged(mean, variance, FUNCTIONS["relu-written-out"][0]), rectified(mean, variance)
    )


def test_hinges_of_the_identity_change_nothing() -> None:
    mean, variance = torch.randn(20), torch.rand(20)
    torch.testing.assert_close(hinged(mean, variance, FUNCTIONS["identity"][0]), (mean, variance))


def test_hinges_moments_tilt_with_a_line_that_is_added() -> None:
    """Var(f + s z) = Var f + 2 s E f' Var z + s² Var z."""
    mean = torch.randn(30, dtype=torch.float64)
    variance = 0.1 + torch.rand(30, dtype=torch.float64)
    flat, tilted = (Hinges((-0.5, 0.3), (1.0, 0.7), slope=slope, intercept=1.0) for slope in (0.0, -0.9))
    before, after = hinged(mean, variance, flat), hinged(mean, variance, tilted)
    torch.testing.assert_close(after[0], before[0] - 0.9 * mean)
    gain = hinged_gain(mean, variance, flat)
    torch.testing.assert_close(after[1], before[1] - 1.8 * gain * variance + 0.81 * variance)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("size", [1.0, 10.0, 1000.0])
def test_hinges_in_single_precision_lose_nothing_far_from_the_kinks(name: str, size: float) -> None:
    """Where the function is flat, what is left of the variance must not be rounding."""
    hinges, _ = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(0)
    mean = size * (2 * torch.rand(10_000, generator=generator) - 1)
    variance = (1e-4 * mean).square()
    actual = hinged(mean, variance, hinges)
    expected = hinged(mean.double(), variance.double(), hinges)
    assert ((actual[0] - expected[0]).abs() <= 1e-5 * expected[0].abs() + 1e-6 * size).all()
    assert ((actual[1] - expected[1]).abs() <= 1e-3 * variance).all()


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hinges_moments_without_variance_are_the_function(name: str, dtype: torch.dtype) -> None:
    hinges, function = FUNCTIONS[name]
    points = [-7.0, -0.3, 0.0, 0.1, 0.2, 0.7, 6.0, 7.5, *hinges.positions]
    mean = torch.tensor(points, dtype=dtype, requires_grad=True)
    variance = torch.zeros(1, dtype=dtype, requires_grad=True)
    result, spread = hinged(mean, variance, hinges)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(result, function(mean), rtol=0, atol=10 * eps)
    assert (spread == 0).all()
    gain = hinged_gain(mean, variance, hinges)
    for gradient in torch.autograd.grad(result.sum() + spread.sum() + gain.sum(), (mean, variance)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_hinged_gain_is_the_slope_of_the_mean(integrated: _Integrated, name: str) -> None:
    """And Cov(f(z), z) / Var z, where 2 Cov(f(z), z) = Var(f(z) + z) - Var f(z) - Var z."""
    hinges, function = FUNCTIONS[name]
    mean = torch.tensor([-2.0, 0.1, 0.9, 5.5], dtype=torch.float64, requires_grad=True)
    variance = torch.tensor([0.5, 0.2, 2.0, 1.0], dtype=torch.float64)
    gain = hinged_gain(mean, variance, hinges)
    (slope,) = torch.autograd.grad(hinged(mean, variance, hinges)[0].sum(), mean)
    torch.testing.assert_close(gain, slope)
    for index in range(4):
        center, spread = mean[index].item(), variance[index].item()
        _, own = integrated(function, center, spread**0.5, kinks=hinges.positions)
        _, both = integrated(lambda x: function(x) + x, center, spread**0.5, kinks=hinges.positions)
        assert gain[index].item() == pytest.approx((both - own - spread) / 2 / spread, abs=1e-8)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "identity"])
def test_hinges_gradients_are_those_of_finite_differences(name: str) -> None:
    hinges, _ = FUNCTIONS[name]
    mean = torch.tensor([[-1.3, 0.05, 0.6, 3.3], [0.4, -0.2, 5.8, 1.1]], dtype=torch.float64)
    variance = torch.tensor([[0.7, 0.2, 1.5, 2.0]], dtype=torch.float64)
    inputs = (mean.requires_grad_(), variance.requires_grad_())
    assert torch.autograd.gradcheck(partial(hinged, hinges=hinges), inputs)
    assert torch.autograd.gradcheck(partial(hinged_gain, hinges=hinges), inputs)
