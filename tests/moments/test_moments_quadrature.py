"""Gauss-Hermite quadrature against polynomials and adaptive integration."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from withstand.moments import nodes_and_weights, quadrature, quadrature_gain, rectified

_Integrated = Callable[..., tuple[float, float]]

SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "gelu-tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "softplus": F.softplus,
}


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("num_nodes", [1, 2, 7, 16, 32])
def test_quadrature_has_the_moments_of_the_normal_distribution_itself(num_nodes: int) -> None:
    nodes, weights = nodes_and_weights(num_nodes)
    assert sum(weights) == pytest.approx(1)
    for power in range(2 * num_nodes):
        odd_factorial = math.prod(range(power - 1, 0, -2)) if power % 2 == 0 else 0
        result = sum(weight * node**power for node, weight in zip(nodes, weights, strict=True))
        scale = sum(weight * abs(node) ** power for node, weight in zip(nodes, weights, strict=True))
        assert result == pytest.approx(odd_factorial, abs=1e-10 * scale)


@settings(max_examples=40, deadline=None)
@given(mean=st.floats(-3, 3), std=st.floats(0.01, 3))
def test_quadrature_of_a_cubic_is_exact(mean: float, std: float) -> None:
    actual = quadrature(lambda x: x**3, _number(mean), _number(std**2))
    assert actual[0].item() == pytest.approx(mean**3 + 3 * mean * std**2, rel=1e-9, abs=1e-9)
    expected = 9 * mean**4 * std**2 + 36 * mean**2 * std**4 + 15 * std**6
    assert actual[1].item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    gain = quadrature_gain(lambda x: x**3, _number(mean), _number(std**2)).item()
    assert gain == pytest.approx(3 * mean**2 + 3 * std**2, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("mean", [-2.5, -0.4, 0.0, 1.3])
@pytest.mark.parametrize(("std", "tolerance"), [(0.05, 1e-12), (0.3, 1e-9), (1.0, 1e-3)])
def test_quadrature_of_smooth_activations_is_near_integrals(
    integrated: _Integrated, name: str, mean: float, std: float, tolerance: float
) -> None:
    function = SMOOTH[name]
    actual = quadrature(function, _number(mean), _number(std**2))
    expected = integrated(function, mean, std)
    assert actual[0].item() == pytest.approx(expected[0], abs=tolerance)
    assert actual[1].item() == pytest.approx(expected[1], abs=tolerance)


def test_quadrature_with_more_nodes_is_nearer(integrated: _Integrated) -> None:
    expected = integrated(torch.tanh, 0.3, 1.5)
    errors = []
    for num_nodes in (4, 16, 64):
        actual = quadrature(torch.tanh, _number(0.3), _number(2.25), num_nodes=num_nodes)
        errors.append(max(abs(actual[0].item() - expected[0]), abs(actual[1].item() - expected[1])))
    assert errors[0] > 10 * errors[1]
    assert errors[1] > 10 * errors[2]


def test_quadrature_is_near_where_a_function_bends() -> None:
    means = torch.linspace(-2, 2, 81, dtype=torch.float64)
    ones = torch.ones_like(means)
    for actual, expected in zip(quadrature(torch.relu, means, ones), rectified(means, ones), strict=True):
        assert (actual - expected).abs().max() < 0.05


@pytest.mark.parametrize("name", SMOOTH)
def test_quadrature_gain_is_the_mean_slope(integrated: _Integrated, name: str) -> None:
    function = SMOOTH[name]

    def slope(x: Tensor) -> Tensor:
        points = x.requires_grad_()
        (gradient,) = torch.autograd.grad(function(points).sum(), points)
        return gradient

    for mean in (-1.2, 0.0, 0.8):
        result = quadrature_gain(function, _number(mean), _number(0.09)).item()
        assert result == pytest.approx(integrated(slope, mean, 0.3)[0], abs=1e-8)


def test_quadrature_of_constants_has_no_variance_and_shifts_nothing() -> None:
    mean, variance = torch.randn(40), torch.rand(40)
    actual, spread = quadrature(lambda x: torch.full_like(x, 0.7), mean, variance)
    assert torch.equal(actual, torch.full_like(mean, 0.7))
    assert (spread == 0).all()
    shifted = quadrature(lambda x: torch.tanh(x) + 0.5, mean, variance)
    expected = quadrature(torch.tanh, mean, variance)
    torch.testing.assert_close(shifted[0], expected[0] + 0.5)
    torch.testing.assert_close(shifted[1], expected[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("variance_shape", [(2, 3), (1, 3), ()])
def test_quadrature_gradients_are_those_of_finite_differences(variance_shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    variance = 0.1 + torch.rand(variance_shape, generator=generator, dtype=torch.float64)
    inputs = (mean, variance.requires_grad_())
    for name in ("tanh", "gelu", "softplus"):
        assert torch.autograd.gradcheck(partial(quadrature, SMOOTH[name]), inputs)
        assert torch.autograd.gradcheck(partial(quadrature_gain, SMOOTH[name]), inputs)


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quadrature_without_variance_is_the_function(name: str, dtype: torch.dtype) -> None:
    function, eps = SMOOTH[name], torch.finfo(dtype).eps
    mean = torch.linspace(-4, 4, 41, dtype=dtype, requires_grad=True)
    variance = torch.zeros(41, dtype=dtype, requires_grad=True)
    result, spread = quadrature(function, mean, variance)
    torch.testing.assert_close(result, function(mean), rtol=0, atol=4 * eps)
    assert (spread <= (4 * eps) ** 2).all()
    gain = quadrature_gain(function, mean, variance)
    for gradient in torch.autograd.grad(result.sum() + spread.sum() + gain.sum(), (mean, variance)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", SMOOTH)
def test_quadrature_in_single_precision_is_near_double(name: str) -> None:
    function = SMOOTH[name]
    mean = torch.linspace(-3, 3, 61)
    for std in (0.01, 0.1, 1.0):
        variance = torch.full((61,), std**2)
        actual = quadrature(function, mean, variance)
        expected = quadrature(function, mean.double(), variance.double())
        torch.testing.assert_close(actual[0].double(), expected[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(actual[1].double(), expected[1], rtol=2e-3, atol=1e-5 * std**2)
