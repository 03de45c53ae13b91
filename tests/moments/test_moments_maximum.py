"""The larger of two normal variables against numerical integration and samples."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from withstand.moments import cdf, larger, pdf, rectified, share_of_first

PADDED = -1e9  # what stands for the -inf of padding
NUM_SAMPLES = 100_000
_means = st.floats(-3, 3)
_stds = st.floats(0.05, 3)


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _random(seed: int, *shape: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Means, variances, and covariances with correlations of all sizes."""
    generator = torch.Generator().manual_seed(seed)
    one, two, rho = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    var_a, var_b = (0.1 + torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return one, var_a, two, var_b, torch.tanh(rho) * (var_a * var_b).sqrt()


def _density(t: Tensor, one: tuple[float, float], other: tuple[float, float], rho: float) -> Tensor:
    """That the first of two, (mean, std) each, is at t and the other below."""
    h = (t - one[0]) / one[1]
    below = (t - other[0] - rho * other[1] * h) / (other[1] * math.sqrt(1 - rho**2))
    return pdf(h) / one[1] * cdf(below)


def _integrals(a: tuple[float, float], b: tuple[float, float], rho: float) -> tuple[float, float]:
    """Mean and variance of the larger, by the trapezoid rule: of smooth densities it errs by little."""
    reach = 10 * max(a[1], b[1])
    points = torch.linspace(min(a[0], b[0]) - reach, max(a[0], b[0]) + reach, 100_001, dtype=torch.float64)
    density = _density(points, a, b, rho) + _density(points, b, a, rho)
    mean = torch.trapezoid(density * points, points).item()
    return mean, torch.trapezoid(density * (points - mean).square(), points).item()


@settings(max_examples=60, deadline=None)
@given(mean=_means, other=_means, std=_stds, other_std=_stds, rho=st.floats(-0.99, 0.99) | st.none())
def test_larger_moments_are_integrals(
    mean: float, other: float, std: float, other_std: float, rho: float | None
) -> None:
    covariance = None if rho is None else _number(rho * std * other_std)
    actual = larger(_number(mean), _number(std**2), _number(other), _number(other_std**2), covariance)
    expected = _integrals((mean, std), (other, other_std), rho or 0.0)
    assert actual[0].item() == pytest.approx(expected[0], rel=1e-8, abs=1e-8)
    assert actual[1].item() == pytest.approx(expected[1], rel=1e-8, abs=1e-8)


def test_larger_moments_and_share_agree_with_samples() -> None:
    one, var_a, two, var_b, covariance = _random(0, 6)
    factor = torch.linalg.cholesky(
        torch.stack([torch.stack([var_a, covariance], 1), torch.stack([covariance, var_b], 1)], 1)
    )
    noise = torch.randn(NUM_SAMPLES, 6, 2, generator=torch.Generator().manual_seed(1), dtype=one.dtype)
    x, y = (torch.stack([one, two], 1) + (factor @ noise[..., None]).squeeze(-1)).unbind(2)
    samples = torch.maximum(x, y)
    apart = (samples - samples.mean(0)).square()
    is_first = (x > y).double()
    mean, variance = larger(one, var_a, two, var_b, covariance)
    share = share_of_first(one, var_a, two, var_b, covariance)
    for result, values in ((mean, samples), (variance, apart), (share, is_first)):
        assert ((values.mean(0) - result).abs() <= 5 * values.std(0) / math.sqrt(NUM_SAMPLES)).all()


def test_larger_does_not_depend_on_which_is_first() -> None:
    one, var_a, two, var_b, covariance = _random(1, 50)
    for joint in (None, covariance):
        result = larger(one, var_a, two, var_b, joint)
        torch.testing.assert_close(result, larger(two, var_b, one, var_a, joint))
        shares = share_of_first(one, var_a, two, var_b, joint), share_of_first(two, var_b, one, var_a, joint)
        torch.testing.assert_close(sum(shares), torch.ones_like(one))


def test_larger_shifts_and_scales() -> None:
    one, var_a, two, var_b, covariance = _random(2, 50)
    mean, variance = larger(one, var_a, two, var_b, covariance)
    moved = larger(3 * one + 7, 9 * var_a, 3 * two + 7, 9 * var_b, 9 * covariance)
    torch.testing.assert_close(moved, (3 * mean + 7, 9 * variance))


def test_larger_beside_a_constant_is_the_rectifier() -> None:
    mean, variance, *_ = _random(3, 50)
    constant, none = torch.full_like(mean, 0.3), torch.zeros_like(mean)
    expected, spread = rectified(mean - 0.3, variance)
    torch.testing.assert_close(larger(mean, variance, constant, none), (expected + 0.3, spread))
    torch.testing.assert_close(larger(constant, none, mean, variance), (expected + 0.3, spread))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_larger_of_a_value_and_itself_is_that_value(dtype: torch.dtype) -> None:
    mean, variance = (tensor.to(dtype).requires_grad_() for tensor in _random(4, 50)[:2])
    result = larger(mean, variance, mean, variance, variance)
    torch.testing.assert_close(result, (mean, variance))
    for gradient in torch.autograd.grad(torch.stack(result).sum(), (mean, variance)):
        assert gradient.isfinite().all()


def test_larger_of_a_value_and_its_negative_is_folded() -> None:
    mean, variance, *_ = _random(5, 50)
    expected, spread = larger(mean, variance, -mean, variance, -variance)
    h = mean / variance.sqrt()
    folded = mean * (2 * cdf(h) - 1) + 2 * variance.sqrt() * pdf(h)
    torch.testing.assert_close(expected, folded)
    torch.testing.assert_close(spread, mean.square() + variance - folded.square())


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("variance_shape", [(3, 4), (1, 4), (1, 1)])
def test_larger_gradients_are_those_of_finite_differences(
    joint: bool, variance_shape: tuple[int, ...]
) -> None:
    one, _, two, _, _ = _random(6, 3, 4)
    _, var_a, _, var_b, covariance = _random(7, *variance_shape)
    inputs = [value.requires_grad_() for value in (one, var_a, two, var_b, covariance)]
    inputs = inputs if joint else inputs[:4]
    assert torch.autograd.gradcheck(larger, inputs)
    assert torch.autograd.gradcheck(share_of_first, inputs)


def test_share_of_first_is_the_slope_of_the_mean() -> None:
    """By which Cov(max(x, y), ·) = share Cov(x, ·) + (1 - share) Cov(y, ·) (Stein, 1981)."""
    one, var_a, two, var_b, covariance = _random(8, 20)
    means = (one.requires_grad_(), two.requires_grad_())
    expected, _ = larger(one, var_a, two, var_b, covariance)
    first, second = torch.autograd.grad(expected.sum(), means)
    share = share_of_first(one, var_a, two, var_b, covariance)
    torch.testing.assert_close((first, second), (share, 1 - share))


@pytest.mark.parametrize("std", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("h", [1e1, 1e3, 1e4, -1e1, -1e3, -1e4])
@pytest.mark.parametrize("rho", [None, 0.0, -0.9, 0.9])
def test_larger_of_values_far_apart_loses_nothing_in_single_precision(
    h: float, std: float, rho: float | None
) -> None:
    values = [h * std, std**2, -h * std, 0.25 * std**2]
    values = values if rho is None else [*values, 0.5 * rho * std**2]
    actual = larger(*[torch.tensor(value) for value in values])
    expected = larger(*[_number(value) for value in values])
    assert actual[0].item() == pytest.approx(expected[0].item(), rel=1e-3)
    assert actual[1].item() == pytest.approx(expected[1].item(), rel=1e-3)


def test_larger_in_single_precision_is_near_double() -> None:
    values = _random(9, 10_000)
    actual = larger(*(value.float() for value in values))
    for own, expected in zip(actual, larger(*values), strict=True):
        torch.testing.assert_close(own.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("joint", [False, True])
def test_larger_is_never_the_padding(joint: bool) -> None:
    mean = torch.tensor([-1e4, -2.0, 0.0, 0.3, 1e4], requires_grad=True)
    variance = torch.tensor([1.0, 0.0, 0.0, 4.0, 1e-6], requires_grad=True)
    padded, none = torch.full_like(mean, PADDED), torch.zeros_like(mean)
    covariance = [none] if joint else []
    for actual, share, expected in (
        (
            larger(mean, variance, padded, none, *covariance),
            share_of_first(mean, variance, padded, none, *covariance),
            1.0,
        ),
        (
            larger(padded, none, mean, variance, *covariance),
            share_of_first(padded, none, mean, variance, *covariance),
            0.0,
        ),
    ):
        assert torch.equal(actual[0], mean)
        assert torch.equal(actual[1], variance)
        assert (share == expected).all()
        to_mean, to_variance = torch.autograd.grad(actual[0].sum() + 3 * actual[1].sum(), (mean, variance))
        assert torch.equal(to_mean, torch.ones(5))
        assert torch.equal(to_variance, torch.full((5,), 3.0))
        for gradient in torch.autograd.grad(share.sum(), (mean, variance)):
            assert (gradient == 0).all()


def test_larger_of_padding_and_padding_is_padding() -> None:
    padded = torch.full((3,), PADDED, requires_grad=True)
    none = torch.zeros(3, requires_grad=True)
    mean, variance = larger(padded, none, padded, none)
    assert torch.equal(mean, padded)
    assert (variance == 0).all()
    for gradient in torch.autograd.grad(mean.sum() + variance.sum(), (padded, none)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("joint", [False, True])
def test_larger_without_variance_is_the_maximum(dtype: torch.dtype, joint: bool) -> None:
    one = torch.tensor([-3.0, 0.0, 0.0, 2.0, 1e4, 1e-8], dtype=dtype, requires_grad=True)
    two = torch.tensor([5.0, 0.0, -1e-8, 2.0, -1e4, 0.0], dtype=dtype, requires_grad=True)
    others = [torch.zeros(6, dtype=dtype, requires_grad=True) for _ in range(3)]
    inputs = [one, others[0], two, others[1], *others[2:]] if joint else [one, others[0], two, others[1]]
    mean, variance = larger(*inputs)
    torch.testing.assert_close(mean, torch.maximum(one, two), rtol=0, atol=torch.finfo(dtype).eps)
    assert (variance == 0).all()
    total = mean.sum() + variance.sum() + share_of_first(*inputs).sum()
    for gradient in torch.autograd.grad(total, inputs):
        assert gradient.isfinite().all()


@settings(max_examples=100, deadline=None)
@given(
    means=st.tuples(*[st.floats(-100, 100, width=32)] * 2),
    variances=st.tuples(*[st.floats(0, 100, width=32)] * 2),
    rho=st.floats(-1, 1),
)
def test_larger_moments_lie_within_bounds(
    means: tuple[float, float], variances: tuple[float, float], rho: float
) -> None:
    one, two, var_a, var_b = torch.tensor([*means, *variances]).unbind()
    mean, variance = larger(one, var_a, two, var_b, rho * (var_a * var_b).sqrt())
    most, slack = torch.maximum(one, two), 1e-5 * (1 + one.abs() + two.abs())
    assert mean >= most
    assert mean <= most + 0.4 * (var_a.sqrt() + var_b.sqrt()) + slack
    # Of any two variables the variance of the larger is at most the sum of theirs.
    assert 0 <= variance <= (var_a + var_b) * (1 + 1e-4) + 1e-6


def test_larger_writes_nothing_into_its_arguments() -> None:
    values = _random(10, 5)
    inputs = [value.clone().requires_grad_() for value in values]
    result = larger(*inputs)
    upstream = [torch.ones_like(tensor) for tensor in result]
    torch.autograd.grad(result, inputs, upstream)
    assert all(torch.equal(tensor, torch.ones_like(tensor)) for tensor in upstream)
    assert all(torch.equal(own, value) for own, value in zip(inputs, values, strict=True))


def test_larger_has_a_gradient_for_some_alone() -> None:
    values = _random(11, 5)
    inputs = [value.clone().requires_grad_() for value in values]
    whole = torch.autograd.grad(torch.stack(larger(*inputs)).sum(), inputs)
    for index in range(5):
        mixed = [*values]
        mixed[index] = inputs[index]
        (alone,) = torch.autograd.grad(torch.stack(larger(*mixed)).sum(), inputs[index])
        assert torch.equal(alone, whole[index])
