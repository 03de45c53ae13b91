"""The closed forms that rules give for activations: the same function, and the moments it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.domains import Domain, Elementwise, FactoredGaussian, Gaussian, Unimodal, propagate
from withstand.graph.domain import NormOf
from withstand.graph.primitives import Bilinear, Coupled, Monotone
from withstand.moments import RECTIFIER, quadrature
from withstand.operators import LinearOperator

CHANNELS = 3


class _Noted(Domain):
    """Notes the activations that a rule makes use of."""

    def __init__(self, center: Tensor, functions: list[Elementwise | Unimodal]) -> None:
        self._center = center
        self.functions = functions

    @property
    @override
    def center(self) -> Tensor:
        return self._center

    @override
    def affine(self, operator: LinearOperator, bias: Tensor | None, norm: NormOf) -> Self:
        raise NotImplementedError

    @override
    def monotone(self, function: Monotone) -> Self:
        assert isinstance(function, Elementwise)
        return self._noting(function)

    @override
    def unimodal(self, function: Unimodal) -> Self:
        return self._noting(function)

    def _noting(self, function: Elementwise | Unimodal) -> Self:
        self.functions.append(function)
        return type(self)(function.function(self.center), self.functions)

    @override
    def shift(self, constant: Tensor | float) -> Self:
        raise NotImplementedError

    @override
    def add(self, other: Self) -> Self:
        raise NotImplementedError

    @override
    def coupled(self, function: Coupled) -> Self:
        raise NotImplementedError

    @override
    def product(self, other: Self, bilinear: Bilinear) -> Self:
        raise NotImplementedError

    @override
    def larger(self, other: Self) -> Self:
        raise NotImplementedError

    @override
    def cat(self, others: Sequence[Self], dim: int) -> Self:
        raise NotImplementedError


class _Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _prelu() -> nn.Module:
    layer = nn.PReLU(CHANNELS)
    layer.weight = nn.Parameter(torch.tensor([0.0, 0.3, 1.7]))
    return layer


BENT: Mapping[str, tuple[Callable[[], nn.Module], Sequence[float]]] = {
    "relu": (nn.ReLU, [0]),
    "relu-function": (lambda: _Function(F.relu), [0]),
    "leaky": (nn.LeakyReLU, [0]),
    "leaky-function": (lambda: _Function(lambda x: F.leaky_relu(x, 0.3)), [0]),
    "leaky-steep": (lambda: nn.LeakyReLU(1.5), [0]),
    "leaky-negative": (lambda: nn.LeakyReLU(-1.5), [0]),
    "prelu": (_prelu, [0]),
    "prelu-one": (nn.PReLU, [0]),
    "abs": (lambda: _Function(torch.abs), [0]),
    "relu6": (nn.ReLU6, [0, 6]),
    "hardtanh": (nn.Hardtanh, [-1, 1]),
    "hardtanh-ends": (lambda: nn.Hardtanh(-0.3, 0.2), [-0.3, 0.2]),
    "hardtanh-function": (lambda: _Function(lambda x: F.hardtanh(x, -0.5, 2.0)), [-0.5, 2]),
    "hardsigmoid": (nn.Hardsigmoid, [-3, 3]),
    "clamp": (lambda: _Function(lambda x: x.clamp(-0.5, 0.9)), [-0.5, 0.9]),
    "clamp-below": (lambda: _Function(lambda x: x.clamp(min=0.4)), [0.4]),
    "clamp-above": (lambda: _Function(lambda x: x.clamp(max=0.4)), [0.4]),
    "clamp-min": (lambda: _Function(lambda x: torch.clamp_min(x, -0.7)), [-0.7]),
    "clamp-max": (lambda: _Function(lambda x: torch.clamp_max(x, 1.3)), [1.3]),
}
SMOOTH: Mapping[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "gelu-tanh": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
    "logsigmoid": nn.LogSigmoid,
}


def _activation(layer: nn.Module) -> Elementwise | Unimodal:
    """What a layer's rule takes it for."""
    functions: list[Elementwise | Unimodal] = []
    propagate(layer, _Noted(torch.zeros(1, CHANNELS, 2, dtype=torch.float64), functions))
    (function,) = functions
    return function


def _integrals(layer: nn.Module, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of a layer's output, by the trapezoid rule on a fine grid."""
    points = torch.linspace(-10, 10, 40_001, dtype=torch.float64)
    weights = torch.exp(-points.square() / 2) / math.sqrt(2 * math.pi) * (points[1] - points[0])
    with torch.no_grad():
        values = layer(mean + std * points.reshape(-1, *[1] * (mean.dim() - 1)))
    weights = weights.reshape(-1, *[1] * (mean.dim() - 1))
    first = (values * weights).sum(0, keepdim=True)
    return first, ((values - first).square() * weights).sum(0, keepdim=True)


@pytest.mark.parametrize("name", BENT)
def test_activation_hinges_are_the_function(name: str) -> None:
    build, positions = BENT[name]
    layer = build().double()
    function = _activation(layer)
    hinges = function.hinges
    assert hinges is not None
    assert [*hinges.positions] == positions
    points = torch.linspace(-9, 9, 3610, dtype=torch.float64).reshape(-1, 1, 1).expand(-1, CHANNELS, 1)
    value = hinges.intercept + hinges.slope * points
    for position, bend in zip(hinges.positions, hinges.bends, strict=True):
        value = value + bend * torch.relu(points - position)
    torch.testing.assert_close(value, function.function(points), rtol=0, atol=1e-12)
    torch.testing.assert_close(value, layer(points), rtol=0, atol=1e-12)


def test_relu_takes_the_shortest_way() -> None:
    for layer in (nn.ReLU(), nn.ReLU(inplace=True), _Function(F.relu), _Function(torch.relu)):
        assert _activation(layer).hinges is RECTIFIER


def _noisy() -> tuple[Tensor, Tensor]:
    """Means about and beyond the kinks, (1, channels, …), and deviations of two sizes."""
    mean = torch.tensor([-4.0, -0.9, -0.3, 0.0, 0.2, 0.45, 1.1, 3.2, 7.0], dtype=torch.float64)
    std = torch.tensor([0.1, 1.3], dtype=torch.float64)
    shape = (1, CHANNELS, len(mean), len(std))
    return mean[:, None].expand(shape).clone(), std.expand(shape).clone()


@pytest.mark.parametrize("name", BENT)
def test_moments_of_piecewise_linear_activations_are_integrals(name: str) -> None:
    layer = BENT[name][0]().double()
    mean, std = _noisy()
    with torch.no_grad():
        actual = propagate(layer, Gaussian(mean, std.square()))
    expected, spread = _integrals(layer, mean, std)
    torch.testing.assert_close(actual.mean, expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(actual.variance, spread, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", SMOOTH)
def test_moments_of_smooth_activations_are_near_integrals(name: str) -> None:
    layer = SMOOTH[name]().double()
    assert _activation(layer).hinges is None
    mean, std = _noisy()
    actual = propagate(layer, Gaussian(mean, std.square()))
    expected, spread = _integrals(layer, mean, std)
    torch.testing.assert_close(actual.mean, expected, rtol=5e-3, atol=1e-3)
    torch.testing.assert_close(actual.variance, spread, rtol=5e-3, atol=1e-3)
    small = std[0, 0, 0] < 0.5
    torch.testing.assert_close(actual.mean[..., small], expected[..., small], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(actual.variance[..., small], spread[..., small], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [*BENT, *SMOOTH])
def test_activation_keeps_covariances_by_its_mean_slope(name: str) -> None:
    """The factors of f(z) are Cov(f(z), z_r) = E f'(z) times those of z (Stein, 1981)."""
    layer = (SMOOTH.get(name) or BENT[name][0])().double()
    mean, std = _noisy()
    mean, std = mean.requires_grad_(), std.detach()
    value = FactoredGaussian(mean, torch.stack([0.6 * std, -0.8 * std]))
    with torch.enable_grad():
        actual = propagate(layer, value)
        (slope,) = torch.autograd.grad(actual.mean.sum(), mean)
    tolerance = 1e-6 if name in BENT else 5e-3
    torch.testing.assert_close(actual.factors, slope * value.factors, rtol=tolerance, atol=tolerance)
    expected = propagate(layer, Gaussian(mean, std.square()))
    torch.testing.assert_close(actual.mean, expected.mean)
    torch.testing.assert_close(actual.variance, expected.variance)


def test_activation_of_ones_own_goes_by_quadrature() -> None:
    mean, variance = torch.randn(2, 4, dtype=torch.float64), torch.rand(1, 4, dtype=torch.float64)
    result = Gaussian(mean, variance).monotone(Elementwise(torch.arctan))
    torch.testing.assert_close((result.mean, result.variance), quadrature(torch.arctan, mean, variance))
