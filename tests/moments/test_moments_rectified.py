"""Moments of max(z, 0) against numerical integration, samples, and themselves in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from withstand.moments import cdf, rectified, rectified_and_mean

NUM_SAMPLES = 100_000
_scales = st.floats(1e-3, 1e3)


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _random(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(shape, generator=generator, dtype=torch.float64)
    return mean, 0.1 + torch.rand(shape, generator=generator, dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(h=st.floats(-8, 8), std=_scales)
def test_rectified_moments_are_integrals(
    integrated: Callable[..., tuple[float, float]], h: float, std: float
) -> None:
    mean, variance = rectified(_number(h * std), _number(std * std))
    first, second = integrated(torch.relu, h * std, std, kinks=[0.0])
    assert mean.item() == pytest.approx(first, rel=1e-8)
    assert variance.item() == pytest.approx(second, rel=1e-8)


def test_rectified_moments_agree_with_samples() -> None:
    means, variances = _random(0, 8)
    noise = torch.randn(NUM_SAMPLES, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    samples = torch.relu(means + variances.sqrt() * noise)
    mean, variance = rectified(means, variances)
    apart = (samples - samples.mean(0)).square()
    root = math.sqrt(NUM_SAMPLES)
    assert ((samples.mean(0) - mean).abs() <= 5 * samples.std(0) / root).all()
    assert ((apart.mean(0) - variance).abs() <= 5 * apart.std(0) / root).all()


@settings(max_examples=40, deadline=None)
@given(h=st.floats(-30, 30), std=_scales, factor=_scales)
def test_rectified_moments_scale(h: float, std: float, factor: float) -> None:
    mean, variance = rectified(_number(h * std), _number(std**2))
    larger_mean, larger_variance = rectified(_number(h * std * factor), _number((std * factor) ** 2))
    torch.testing.assert_close(larger_mean, mean * factor, rtol=1e-6, atol=1e-300)
    torch.testing.assert_close(larger_variance, variance * factor**2, rtol=1e-6, atol=1e-200)


def test_rectified_means_of_both_signs_differ_by_the_mean() -> None:
    means, variances = _random(2, 50)
    torch.testing.assert_close(rectified(means, variances)[0] - rectified(-means, variances)[0], means)


@pytest.mark.parametrize("std", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("h", [1e1, 1e2, 1e3, 1e4, 1e6, -1e1, -1e2, -1e4])
def test_rectified_moments_far_from_the_kink_lose_nothing_in_single_precision(h: float, std: float) -> None:
    """As a difference of second moments there would be nothing left of the variance."""
    mean, variance = rectified(torch.tensor(h * std), torch.tensor(std * std))
    expected, spread = rectified(_number(h * std), _number(std * std))
    assert mean.item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-12 * std)
    assert variance.item() == pytest.approx(spread.item(), rel=1e-3, abs=1e-12 * std**2)


def test_rectified_moments_near_the_kink_in_single_precision_are_near_double() -> None:
    h = torch.linspace(-12, 12, 2401, dtype=torch.float64)
    ones = torch.ones_like(h)
    actual = rectified(h.float(), ones.float())
    for value, expected in zip(actual, rectified(h, ones), strict=True):
        assert (value >= 0).all()
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(h=st.floats(-50, 50, width=32), variance=st.floats(0, 1e6, width=32))
def test_rectified_moments_lie_within_bounds(h: float, variance: float) -> None:
    given_mean, given_variance = torch.tensor(h * math.sqrt(variance)), torch.tensor(variance)
    mean, spread = rectified(given_mean, given_variance)
    least = given_mean.clamp_min(0)
    assert mean >= least * (1 - 1e-5)
    assert mean <= least + 0.4 * math.sqrt(variance) * (1 + 1e-5) + 1e-5 * least + 1e-7
    assert 0 <= spread <= given_variance * (1 + 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rectified_without_variance_is_the_function(dtype: torch.dtype) -> None:
    means = torch.tensor([-1e4, -3.0, -1e-3, 0.0, 1e-3, 2.0, 1e4], dtype=dtype, requires_grad=True)
    variance = torch.zeros(7, dtype=dtype, requires_grad=True)
    mean, spread = rectified(means, variance)
    torch.testing.assert_close(mean, means.clamp_min(0), rtol=0, atol=torch.finfo(dtype).eps)
    assert (spread == 0).all()
    (mean.sum() + spread.sum()).backward()
    assert means.grad is not None
    assert variance.grad is not None
    assert means.grad.isfinite().all()
    assert variance.grad.isfinite().all()
    assert means.grad.tolist() == pytest.approx([0, 0, 0, 0.5, 1, 1, 1], abs=1e-6)
    assert variance.grad[[0, 1, 2, 4, 5, 6]].tolist() == pytest.approx([0, 0, 0, 1, 1, 1])


@pytest.mark.parametrize("variance_shape", [(3, 4), (1, 4), ()])
def test_rectified_gradients_are_those_of_finite_differences(variance_shape: tuple[int, ...]) -> None:
    mean, _ = _random(3, 3, 4)
    _, variance = _random(4, *variance_shape)
    inputs = (mean.requires_grad_(), variance.requires_grad_())
    assert torch.autograd.gradcheck(rectified, inputs)
    assert torch.autograd.gradcheck(rectified_and_mean, inputs)


def test_rectified_has_a_gradient_for_one_of_the_two() -> None:
    mean, variance = _random(5, 6)
    whole = (mean.clone().requires_grad_(), variance.clone().requires_grad_())
    for function in (lambda *pair: torch.stack(rectified(*pair)), rectified_and_mean):
        upstream = torch.randn_like(function(mean, variance))
        both = torch.autograd.grad(function(*whole), whole, upstream)
        for index in range(2):
            pair = [mean, variance]
            pair[index] = whole[index]
            (alone,) = torch.autograd.grad(function(*pair), whole[index], upstream)
            assert torch.equal(alone, both[index])


def test_rectified_gradients_of_means_far_away_are_those_of_the_function() -> None:
    mean = torch.tensor([-1e4, 1e4], requires_grad=True)
    variance = torch.ones(2, requires_grad=True)
    for value, expected in zip(rectified(mean, variance), ([0, 1, 0, 0], [0, 0, 0, 1]), strict=True):
        actual = torch.autograd.grad(value.sum(), (mean, variance), retain_graph=True)
        assert torch.cat(actual).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("variance_shape", [(3, 2, 4), (1, 2, 4), (2, 1), ()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rectified_and_mean_are_the_two_apart(variance_shape: tuple[int, ...], dtype: torch.dtype) -> None:
    mean, variance = (
        tensor.to(dtype).requires_grad_()
        for tensor in (_random(6, 3, 2, 4)[0], _random(7, *variance_shape)[1])
    )
    actual = rectified_and_mean(mean, variance)
    expected = torch.cat([torch.relu(mean), rectified(mean, variance)[0]])
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(actual)
    gradients = [torch.autograd.grad(tensor, (mean, variance), upstream) for tensor in (actual, expected)]
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other)


def test_rectified_and_mean_are_finite_without_variance_and_mean() -> None:
    mean, variance = torch.zeros(2, 3, requires_grad=True), torch.zeros(1, 3, requires_grad=True)
    both = rectified_and_mean(mean, variance)
    torch.testing.assert_close(both, torch.zeros(4, 3), rtol=0, atol=1e-7)
    for gradient in torch.autograd.grad(both.sum(), (mean, variance)):
        assert gradient.isfinite().all()


def test_rectified_mean_has_the_slope_of_the_share_above_zero() -> None:
    mean, variance = _random(8, 20)
    mean.requires_grad_()
    (slope,) = torch.autograd.grad(rectified(mean, variance)[0].sum(), mean)
    torch.testing.assert_close(slope, cdf(mean.detach() / variance.sqrt()))


def test_rectified_writes_nothing_into_its_arguments() -> None:
    mean, variance = _random(9, 5)
    inputs = (mean.clone().requires_grad_(), variance.clone().requires_grad_())
    for value in (*rectified(*inputs), rectified_and_mean(*inputs)):
        upstream = torch.ones_like(value)
        torch.autograd.grad(value, inputs, upstream, retain_graph=True)
        assert torch.equal(upstream, torch.ones_like(value))
    assert torch.equal(inputs[0], mean)
    assert torch.equal(inputs[1], variance)
