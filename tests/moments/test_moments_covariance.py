"""Covariances through nonlinear functions against closed forms, quadrature and Monte Carlo."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy.stats import multivariate_normal, norm
from torch import Tensor

from withstand.moments.covariance import (
    correlation_of,
    cross_rectified_covariance,
    expanded_covariance,
    hermite_coefficients,
    hinged_covariance,
    rectified_covariance,
)
from withstand.moments.hinges import RECTIFIER, Hinges, hinged
from withstand.moments.quadrature import quadrature

NUM_SAMPLES = 200_000
_means = st.floats(-4, 4)
_stds = st.floats(0.05, 3)
_correlations = st.floats(-0.999, 0.999)


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _crossed(h: float, k: float, rho: float) -> float:
    """Of two variables of variance 1."""
    one = _number(1.0)
    return cross_rectified_covariance(_number(h), _number(k), one, one, _number(rho)).item()


def _published(h: float, k: float, rho: float) -> float:
    """The same by the bivariate distribution function, as a difference of moments."""
    q = math.sqrt(1 - rho**2)
    joint = multivariate_normal([0, 0], [[1, rho], [rho, 1]]).cdf([h, k])
    density = math.exp(-(h * h - 2 * rho * h * k + k * k) / (2 * q * q)) / (2 * math.pi * q)
    product = (
        (h * k + rho) * joint
        + h * norm.pdf(k) * norm.cdf((h - rho * k) / q)
        + k * norm.pdf(h) * norm.cdf((k - rho * h) / q)
        + q * q * density
    )
    means = (h * norm.cdf(h) + norm.pdf(h)) * (k * norm.cdf(k) + norm.pdf(k))
    return float(product - means)


def _random(num: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Means (2, num), and covariances (2, num, num) with correlations of all sizes."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(2, num, generator=generator, dtype=torch.float64)
    factor = torch.randn(2, num, num, generator=generator, dtype=torch.float64)
    factor[:, 1] = 0.1 * factor[:, 1] + factor[:, 0]  # nearly alike
    factor[:, 2] = 0.1 * factor[:, 2] - factor[:, 0]  # nearly opposite
    return means.to(dtype), (factor @ factor.mT).to(dtype)


def _sampled(function: Callable[[Tensor], Tensor], mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Covariance matrix of f(z) from antithetic samples, and its standard error."""
    generator = torch.Generator().manual_seed(5)
    factor = torch.linalg.cholesky(covariance)
    noise = torch.randn(NUM_SAMPLES // 2, len(mean), generator=generator, dtype=mean.dtype) @ factor.T
    values = torch.stack([function(mean + noise), function(mean - noise)])
    values = values - values.mean((0, 1))
    products = (values[..., :, None] * values[..., None, :]).mean(0)  # a pair counts as one sample
    return products.mean(0), products.std(0) / math.sqrt(len(products))


@settings(max_examples=60, deadline=None)
@given(_means, _means, st.floats(-0.99, 0.99))
def test_rectified_covariance_agrees_with_the_bivariate_distribution_function(
    h: float, k: float, rho: float
) -> None:
    assert _crossed(h, k, rho) == pytest.approx(_published(h, k, rho), abs=2e-7)


@pytest.mark.parametrize("rho", [-1.0, -0.999, -0.9, -0.3, 0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0])
def test_rectified_covariance_of_zero_means_has_the_arccosine_form(rho: float) -> None:
    expected = (rho * math.acos(-rho) + math.sqrt(1 - rho**2) - 1) / (2 * math.pi)
    assert _crossed(0.0, 0.0, rho) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.floats(-6, 6), st.floats(-0.05, 0.05), st.sampled_from([-1.0, 1.0]))
def test_rectified_covariance_keeps_its_stated_error_at_full_correlation(
    h: float, apart: float, rho: float
) -> None:
    k = rho * h + apart
    low, high = sorted([-h, -k / rho])  # where each of the two starts or stops

    def product(x: float) -> float:
        return max(h + x, 0.0) * max(k + rho * x, 0.0) * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    points = [point for point in (low, high) if abs(point) < 12]
    second, _ = integrate.quad(product, -12, 12, points=points or None, epsabs=1e-12)
    means = [x * norm.cdf(x) + norm.pdf(x) for x in (h, k)]
    assert _crossed(h, k, rho) == pytest.approx(float(second - means[0] * means[1]), abs=1e-6)


def test_rectified_covariance_agrees_with_samples() -> None:
    means, covariance = _random(5, seed=0)
    actual = rectified_covariance(means, covariance)
    for row in range(2):
        expected, error = _sampled(torch.relu, means[row], covariance[row])
        assert ((actual[row] - expected).abs() <= 5 * error).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([torch.float32, torch.float64]))
def test_rectified_covariance_is_a_covariance_matrix(seed: int, dtype: torch.dtype) -> None:
    means, covariance = _random(6, seed, dtype)
    result = rectified_covariance(means, covariance)
    variance = result.diagonal(dim1=1, dim2=2)
    bound = (variance[:, :, None] * variance[:, None, :]).sqrt()
    scale = covariance.diagonal(dim1=1, dim2=2).amax(1)
    assert torch.equal(result, result.mT)
    assert (result.abs() <= bound + 2e-6 * scale[:, None, None]).all()
    assert (torch.linalg.eigvalsh(result)[:, 0] >= -1e-5 * scale).all()


@settings(max_examples=40, deadline=None)
@given(_means, _means, _stds, _stds, _correlations, _correlations)
def test_rectified_covariance_grows_with_the_correlation(
    mean_a: float, mean_b: float, std_a: float, std_b: float, first: float, second: float
) -> None:
    covariances = torch.tensor(sorted([first, second]), dtype=torch.float64) * std_a * std_b
    low, high = cross_rectified_covariance(
        _number(mean_a), _number(mean_b), _number(std_a**2), _number(std_b**2), covariances
    )
    assert low <= high + 1e-6 * std_a * std_b
    assert (high - low) <= (covariances[1] - covariances[0]) + 1e-6 * std_a * std_b  # Φ₂ ≤ 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.permutations(range(5)))
def test_rectified_covariance_does_not_depend_on_the_order_of_coordinates(
    seed: int, order: list[int]
) -> None:
    means, covariance = _random(5, seed)
    result = rectified_covariance(means, covariance)[:, order][:, :, order]
    moved = rectified_covariance(means[:, order], covariance[:, order][:, :, order])
    torch.testing.assert_close(moved, result, rtol=0, atol=1e-14)


def test_rectified_covariance_takes_one_covariance_for_all_examples() -> None:
    means, covariance = _random(5, seed=1)
    shared = rectified_covariance(means, covariance[:1])
    torch.testing.assert_close(shared, rectified_covariance(means, covariance[:1].expand(2, -1, -1)))


def test_rectified_covariance_of_what_does_not_vary_together_is_none() -> None:
    means, covariance = _random(5, seed=2)
    result = rectified_covariance(means, torch.diag_embed(covariance.diagonal(dim1=1, dim2=2)))
    assert torch.equal(result, torch.diag_embed(result.diagonal(dim1=1, dim2=2)))


def test_rectified_covariance_far_from_the_bend_is_all_or_nothing() -> None:
    _, covariance = _random(4, seed=3, dtype=torch.float32)
    means = torch.tensor([[1e3, 2e3, -1e3, 1e3]], dtype=torch.float32)
    varies = torch.tensor([1.0, 1.0, 0.0, 1.0])
    result = rectified_covariance(means, covariance[:1])
    torch.testing.assert_close(result, covariance[:1] * varies[:, None] * varies)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rectified_covariance_of_constants_is_none(dtype: torch.dtype) -> None:
    means, covariance = _random(5, seed=4, dtype=dtype)
    varies = torch.tensor([1, 0, 1, 0, 0], dtype=dtype)
    means[:, 3] = 0
    result = rectified_covariance(means, covariance * varies[:, None] * varies)
    assert not result[:, varies == 0].any()
    pair = rectified_covariance(means[:, [0, 2]], covariance[:, [0, 2]][:, :, [0, 2]])
    torch.testing.assert_close(result[:, [0, 2]][:, :, [0, 2]], pair)


def test_rectified_covariance_has_the_gradient_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(6)
    shapes = [(3, 4, 1), (3, 1, 4), (1, 4, 1), (3, 1, 4), (1, 4, 4)]  # each is summed to its own shape
    mean_a, mean_b, var_a, var_b, share = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    var_a, var_b = var_a.exp(), var_b.exp()
    covariance = 0.9 * share.tanh() * (var_a * var_b.amin(0, keepdim=True)).sqrt()
    inputs = [x.detach().requires_grad_() for x in (mean_a, mean_b, var_a, var_b, covariance)]
    assert torch.autograd.gradcheck(cross_rectified_covariance, inputs)
    for moving in range(5):  # alone, too
        alone = [x.detach().requires_grad_(index == moving) for index, x in enumerate(inputs)]
        assert torch.autograd.gradcheck(cross_rectified_covariance, alone, fast_mode=True)


def test_rectified_covariance_has_the_gradient_of_the_matrix() -> None:
    means, covariance = _random(4, seed=7)
    covariance = covariance + torch.eye(4, dtype=torch.float64)

    def of(means: Tensor, entries: Tensor) -> Tensor:
        return rectified_covariance(means, (entries + entries.mT) / 2)

    assert torch.autograd.gradcheck(of, (means.requires_grad_(), covariance.requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rectified_covariance_is_finite_where_it_degenerates(dtype: torch.dtype) -> None:
    """Every pair of odd means, variances and correlations, beyond ±1 too."""
    means = torch.tensor([0.0, -3.0, 1e-20, 1.0, -1e4, 1e6], dtype=dtype)
    variances = torch.tensor([0.0, 1e-30, 1e-12, 1.0, 1e8], dtype=dtype)
    correlations = torch.tensor([-1.001, -1.0, -0.5, 0.0, 1 - 1e-7, 1.0, 1.001], dtype=dtype)
    grid = torch.cartesian_prod(means, means, variances, variances, correlations)
    mean_a, mean_b, var_a, var_b, rho = (x.clone().requires_grad_() for x in grid.unbind(1))
    covariance = (rho * var_a.detach().sqrt() * var_b.detach().sqrt()).detach().requires_grad_()
    result = cross_rectified_covariance(mean_a, mean_b, var_a, var_b, covariance)
    result.sum().backward()
    assert result.isfinite().all()
    for value in (mean_a, mean_b, var_a, var_b, covariance):
        assert value.grad is not None
        assert value.grad.isfinite().all()


def test_rectified_covariance_has_a_finite_gradient_at_variance_zero() -> None:
    means = torch.zeros(1, 3, requires_grad=True)
    factor = torch.zeros(1, 3, 3, requires_grad=True)
    rectified_covariance(means, factor @ factor.mT).sum().backward()
    correlation_of(factor @ factor.mT).sum().backward()
    assert means.grad is not None
    assert factor.grad is not None
    assert means.grad.isfinite().all()
    assert factor.grad.isfinite().all()


def test_rectified_covariance_in_single_precision_is_near_double() -> None:
    means, covariance = _random(6, seed=8)
    expected = rectified_covariance(means, covariance)
    actual = rectified_covariance(means.float(), covariance.float())
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)


def test_hinged_covariance_of_piecewise_linear_functions_agrees_with_samples() -> None:
    means, covariance = _random(5, seed=14)
    slopes = torch.linspace(-0.5, 0.5, 5, dtype=torch.float64)  # another function for each coordinate
    hinges = Hinges((-0.4, 0.8), (1.0, 1 - slopes), slope=slopes, intercept=0.3)

    def function(x: Tensor) -> Tensor:
        return 0.3 + slopes * x + torch.relu(x + 0.4) + (1 - slopes) * torch.relu(x - 0.8)

    actual = hinged_covariance(means, covariance, hinges)
    _, spread = hinged(means, covariance.diagonal(dim1=1, dim2=2), hinges)
    torch.testing.assert_close(actual.diagonal(dim1=1, dim2=2), spread, rtol=1e-5, atol=1e-5)
    assert torch.equal(actual, actual.mT)
    for row in range(2):
        expected, error = _sampled(function, means[row], covariance[row])
        assert ((actual[row] - expected).abs() <= 5 * error).all()


def test_hinged_covariance_of_the_rectifier_is_the_rectified_one() -> None:
    means, covariance = _random(5, seed=15)
    actual = hinged_covariance(means, covariance, Hinges((0.0,), (1.0,)))
    expected = hinged_covariance(means, covariance, RECTIFIER)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(expected, rectified_covariance(means, covariance))


def _expanded(
    function: Callable[[Tensor], Tensor], means: Tensor, covariance: Tensor, degree: int, num_nodes: int = 32
) -> Tensor:
    variance = covariance.diagonal(dim1=1, dim2=2)
    coefficients = hermite_coefficients(function, means, variance, degree, num_nodes=num_nodes)
    return expanded_covariance(coefficients, correlation_of(covariance))


def test_expansion_of_the_identity_is_the_covariance() -> None:
    means, covariance = _random(5, seed=9)
    torch.testing.assert_close(_expanded(lambda x: x, means, covariance, 3), covariance)


def test_expansion_of_a_square_is_exact() -> None:
    means, covariance = _random(5, seed=10)
    expected = 2 * covariance.square() + 4 * means[:, :, None] * means[:, None, :] * covariance
    torch.testing.assert_close(_expanded(torch.square, means, covariance, 2), expected)


def test_expansion_of_the_exponential() -> None:
    means, covariance = _random(5, seed=11)
    covariance = covariance / 10
    expected = torch.exp(means + covariance.diagonal(dim1=1, dim2=2) / 2)
    product = expected[:, :, None] * expected[:, None, :] * torch.expm1(covariance)
    torch.testing.assert_close(_expanded(torch.exp, means, covariance, 24), product, rtol=1e-8, atol=1e-10)


def test_expansion_of_tanh_agrees_with_samples() -> None:
    means, covariance = _random(5, seed=12)
    covariance = covariance / 4
    actual = _expanded(torch.tanh, means, covariance, 30, num_nodes=64)
    for row in range(2):
        expected, error = _sampled(torch.tanh, means[row], covariance[row])
        assert ((actual[row] - expected).abs() <= 5 * error).all()


def test_hermite_coefficients_are_mean_and_variance() -> None:
    means, covariance = _random(5, seed=13)
    variance = covariance.diagonal(dim1=1, dim2=2) / 10
    coefficients = hermite_coefficients(torch.sin, means, variance, 20)
    expected, spread = quadrature(torch.sin, means, variance, num_nodes=32)
    torch.testing.assert_close(coefficients[0], expected)
    torch.testing.assert_close(coefficients[1:].square().sum(0), spread)


def test_expansions_are_finite_at_variance_zero() -> None:
    means = torch.tensor([[0.3, -0.2]], requires_grad=True)
    factor = torch.zeros(1, 2, 2, requires_grad=True)
    _expanded(torch.tanh, means, factor @ factor.mT, 4).sum().backward()
    assert means.grad is not None
    assert factor.grad is not None
    assert means.grad.isfinite().all()
    assert factor.grad.isfinite().all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_correlation_of_covariances_does_not_depend_on_scale(seed: int) -> None:
    _, covariance = _random(4, seed)
    result = correlation_of(covariance)
    scale = torch.tensor([0.1, 1.0, 3.0, 10.0], dtype=torch.float64)
    torch.testing.assert_close(correlation_of(covariance * scale[:, None] * scale), result)
    assert (result.abs() <= 1).all()
    torch.testing.assert_close(result.diagonal(dim1=1, dim2=2), torch.ones(2, 4, dtype=torch.float64))
