"""Products, couplings, maxima of two and steep functions of normal values, against integration on a grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from withstand.domains import CorrelatedGaussian, FactoredGaussian, Gaussian, Moments
from withstand.graph.bilinear import MatrixProduct, Multiplication
from withstand.graph.coupled import Largest, LogSoftmax, LogSumExp, Normalization, Softmax
from withstand.graph.point import Point
from withstand.graph.powers import EXP, LOG, SQUARE, power
from withstand.graph.primitives import Bilinear, Coupled, Elementwise, Rearrange, Unimodal
from withstand.moments import nodes_and_weights
from withstand.objectives.onset import Onset
from withstand.operators import Dense, Shape
from withstand.types import ModelError

Start: TypeAlias = Callable[[Tensor, Tensor], Moments]
"""Means (batch, …) and factors of the noise (rank, …) -> what is noisy."""


def _correlated(mean: Tensor, factors: Tensor) -> CorrelatedGaussian:
    link = factors.flatten(1).T[None]
    return CorrelatedGaussian(mean, link @ link.mT, link)


STARTS: Mapping[str, Start] = {
    "diagonal": lambda mean, factors: Gaussian(mean, factors.square().sum(0)[None]),
    "factored": lambda mean, factors: FactoredGaussian(mean, factors[:, None]),
    "correlated": _correlated,
}
SHARING = ["factored", "correlated"]  # remember what their coordinates have in common


@pytest.fixture(params=STARTS)
def start(request: pytest.FixtureRequest) -> Start:
    return STARTS[request.param]


@pytest.fixture(params=SHARING)
def sharing(request: pytest.FixtureRequest) -> Start:
    return STARTS[request.param]


class Expected(NamedTuple):
    """Means and variances, (batch, …) each."""

    mean: Tensor
    variance: Tensor


def _expected(
    function: Callable[..., Tensor], operands: Sequence[tuple[Tensor, Tensor]], num_nodes: int
) -> Expected:
    """By Gauss-Hermite quadrature over all factors, exact for polynomials."""
    rank = len(operands[0][1])
    nodes, weights = (torch.tensor(part, dtype=torch.float64) for part in nodes_and_weights(num_nodes))
    points = torch.cartesian_prod(*[nodes] * rank).reshape(-1, rank)
    share = torch.cartesian_prod(*[weights] * rank).reshape(-1, rank).prod(1)
    values = []
    for row in range(len(operands[0][0])):
        noisy = [mean[row] + torch.tensordot(points, factors, 1) for mean, factors in operands]
        values.append(function(*noisy))
    stacked = torch.stack(values)
    weighted = share.reshape(1, -1, *[1] * (stacked.dim() - 2))
    mean = (weighted * stacked).sum(1)
    return Expected(mean, (weighted * (stacked - mean[:, None]).square()).sum(1))


def _noisy(*shape: int, rank: int, size: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return mean, size * torch.randn(rank, *shape, generator=generator, dtype=torch.float64)


def _independent(size: float, count: int = 3) -> tuple[Tensor, Tensor]:
    """Coordinates of their own noise."""
    mean, factors = _noisy(count, rank=1, size=size)
    return mean, torch.diag(0.5 * size + factors[0].abs())


def _assert_close(actual: Moments, expected: Expected, tolerance: float) -> None:
    variance = actual.variance.expand_as(actual.mean)
    torch.testing.assert_close(actual.mean, expected.mean, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(variance, expected.variance, rtol=tolerance, atol=tolerance)


# Products


PRODUCTS: Mapping[str, tuple[Bilinear, Callable[[Tensor, Tensor], Tensor], Shape, Shape]] = {
    "multiplied": (Multiplication(), torch.mul, (2, 2), (2, 2)),
    "multiplied, spread": (Multiplication(), torch.mul, (2, 1), (1, 3)),
    "matrices": (MatrixProduct(), torch.matmul, (2, 3), (3, 2)),
    "matrices, shared": (MatrixProduct(), torch.matmul, (2, 1, 2), (1, 2, 2)),
}


@pytest.fixture(params=PRODUCTS)
def product(request: pytest.FixtureRequest) -> str:
    result: str = request.param
    return result


def test_moments_of_products_of_correlated_values_are_exact(product: str) -> None:
    bilinear, function, *shapes = PRODUCTS[product]
    operands = [_noisy(*shape, rank=2, size=0.7, seed=seed) for seed, shape in enumerate(shapes)]
    first, second = (_correlated(*operand) for operand in operands)
    _assert_close(first.product(second, bilinear), _expected(function, operands, 4), 1e-10)


def test_moments_of_products_of_shared_factors_are_exact_but_for_sums_to_second_order(product: str) -> None:
    bilinear, function, *shapes = PRODUCTS[product]
    operands = [_noisy(*shape, rank=2, size=0.3, seed=seed) for seed, shape in enumerate(shapes)]
    first, second = (STARTS["factored"](*operand) for operand in operands)
    actual, expected = first.product(second, bilinear), _expected(function, operands, 4)
    torch.testing.assert_close(actual.mean, expected.mean, rtol=1e-10, atol=1e-10)
    variance = actual.variance.expand_as(actual.mean)
    tolerance = 1e-10 if isinstance(bilinear, Multiplication) else 0.1
    torch.testing.assert_close(variance, expected.variance, rtol=tolerance, atol=tolerance)


def test_moments_of_products_of_independent_values_are_exact(product: str) -> None:
    bilinear, function, *shapes = PRODUCTS[product]
    sizes = [math.prod(shape) for shape in shapes]
    mean, std = torch.randn(2, sum(sizes)).double(), torch.rand(sum(sizes)).double()
    means = [part.reshape(2, *shape) for part, shape in zip(torch.split(mean, sizes, 1), shapes, strict=True)]
    stds = [part.reshape(1, *shape) for part, shape in zip(torch.split(std, sizes), shapes, strict=True)]
    first, second = (Gaussian(m, s.square()) for m, s in zip(means, stds, strict=True))
    actual = first.product(second, bilinear)
    (x, y), (v, w) = means, (part.square() for part in stds)
    spread = function(x.square() + v, y.square() + w) - function(x.square(), y.square())
    torch.testing.assert_close(actual.mean, function(x, y))
    torch.testing.assert_close(actual.variance.expand_as(actual.mean), spread)


def test_moments_of_squares_are_exact(start: Start) -> None:
    operand = _independent(0.6)
    value = start(*operand)
    _assert_close(value.product(value, Multiplication()), _expected(torch.square, [operand], 4), 1e-10)
    _assert_close(value.unimodal(SQUARE), _expected(torch.square, [operand], 4), 1e-10)


def test_moments_of_a_sum_of_squares_covary(sharing: Start) -> None:
    """Exact with the whole covariance matrix."""
    operand = _noisy(3, rank=2, size=0.3)
    value = sharing(*operand)
    square = value.product(value, Multiplication())
    expected = _expected(lambda x: x.square().sum(-1, keepdim=True), [operand], 4)
    actual = _summed(square)
    torch.testing.assert_close(actual.mean, expected.mean)
    tolerance = 1e-10 if isinstance(value, CorrelatedGaussian) else 0.1
    torch.testing.assert_close(actual.variance, expected.variance, rtol=tolerance, atol=tolerance)


def _summed(value: Moments) -> Moments:
    size = value.shape[-1]
    return value.affine(
        Dense(torch.ones(1, size, dtype=torch.float64)), None, lambda operator, shape: torch.ones(())
    )


# Functions of each coordinate


STEEP: Mapping[str, tuple[Elementwise | Unimodal, float]] = {
    "exp": (EXP, 1e-9),
    "log": (LOG, 4e-3),
    "square": (SQUARE, 1e-12),
    "cube": (power(3), 1e-12),
    **{f"power {p}": (power(p), 4e-3) for p in (0.5, 1.5, -0.5, -1, -2)},
}


@pytest.mark.parametrize("name", STEEP)
def test_moments_of_steep_functions_are_near(start: Start, name: str) -> None:
    """Those of positive numbers as if they were log-normal: here with a tenth of the mean for deviation."""
    function, tolerance = STEEP[name]
    mean = torch.tensor([[1.0, 2.0, 0.5]], dtype=torch.float64)
    factors = 0.1 * torch.diag(mean[0])
    value = _applied(start(mean, factors), function)
    expected = _expected(function.function, [(mean, factors)], 12)
    torch.testing.assert_close(value.mean, expected.mean, rtol=tolerance, atol=1e-4 if name == "log" else 0)
    spread = value.variance.expand_as(value.mean)
    torch.testing.assert_close(spread, expected.variance, rtol=30 * tolerance, atol=1e-12)


def test_moments_of_a_logarithm_undo_those_of_an_exponential(start: Start) -> None:
    mean, factors = _independent(0.8)
    value = start(mean, factors)
    _assert_close(_applied(_applied(value, EXP), LOG), Expected(mean, value.variance.expand_as(mean)), 1e-9)


@pytest.mark.parametrize("name", STEEP)
def test_moments_of_steep_functions_covary(sharing: Start, name: str) -> None:
    """Of a sum: to first order, but exactly of exponentials and squares with the whole covariance matrix."""
    function, _ = STEEP[name]
    mean = torch.tensor([[1.0, 2.0, 0.5]], dtype=torch.float64)
    _, factors = _noisy(3, rank=2, size=1)
    factors = 0.1 * mean * factors / factors.square().sum(0).sqrt()
    value = sharing(mean, factors)
    actual = _summed(_applied(value, function))
    expected = _expected(lambda x: function.function(x).sum(-1, keepdim=True), [(mean, factors)], 12)
    tolerance = 1e-9 if isinstance(value, CorrelatedGaussian) and name in ("exp", "square") else 0.2
    torch.testing.assert_close(actual.variance, expected.variance, rtol=tolerance, atol=0)


def _applied(value: Moments, function: Elementwise | Unimodal) -> Moments:
    return value.unimodal(function) if isinstance(function, Unimodal) else value.monotone(function)


# Couplings


def _coupled(value: Moments, function: Coupled) -> Moments:
    return value.coupled(function)


class Near(NamedTuple):
    """How far a mean may be off, and a variance as a share of the largest."""

    mean: float
    variance: float


class Coupling(NamedTuple):
    """A function, and how near its moments are at noise of 0.2 and of 1, where means are of size 1."""

    function: Coupled
    small: Near
    large: Near


COUPLINGS: Mapping[str, Coupling] = {
    "softmax": Coupling(Softmax(1), Near(1e-4, 0.02), Near(0.02, 0.2)),
    "log-softmax": Coupling(LogSoftmax(1), Near(2e-4, 0.02), Near(0.05, 0.2)),
    "log-sum-exp": Coupling(LogSumExp(1, keepdim=True), Near(2e-4, 0.02), Near(0.05, 0.3)),
    "largest": Coupling(Largest((1,), keepdim=True), Near(1e-4, 1e-3), Near(0.01, 0.1)),
    "layer norm": Coupling(Normalization((1,), 1e-5), Near(0.02, 0.05), Near(0.2, 0.4)),
    "rms norm": Coupling(Normalization((1,), 1e-5, centered=False), Near(0.02, 0.06), Near(0.2, 0.3)),
}


@pytest.fixture(params=COUPLINGS)
def coupling(request: pytest.FixtureRequest) -> str:
    result: str = request.param
    return result


@pytest.mark.parametrize("size", [0.2, 1.0])
def test_moments_of_couplings_are_near(start: Start, coupling: str, size: float) -> None:
    _assert_near(start, coupling, _independent(size), 24, size)


@pytest.mark.parametrize("size", [0.2, 1.0])
def test_moments_of_couplings_of_correlated_values_are_near(
    sharing: Start, coupling: str, size: float
) -> None:
    _assert_near(sharing, coupling, _noisy(4, rank=2, size=size), 60, size)


def _assert_near(
    start: Start, coupling: str, operand: tuple[Tensor, Tensor], num_nodes: int, size: float
) -> None:
    function, small, large = COUPLINGS[coupling]
    actual, expected = start(*operand).coupled(function), _expected(function, [operand], num_nodes)
    near = small if size < 1 else large
    assert (actual.mean - expected.mean).abs().max() <= near.mean
    away = (actual.variance - expected.variance).abs().max()
    assert away <= near.variance * expected.variance.max()


def test_moments_of_the_softmax_of_two_are_exact(start: Start) -> None:
    operand = _independent(1.0, count=2)
    _assert_close(
        start(*operand).coupled(Softmax(1)), _expected(lambda x: x.softmax(-1), [operand], 40), 2e-3
    )


@pytest.mark.parametrize("keepdim", [False, True])
def test_moments_of_couplings_have_the_shape_of_the_function(start: Start, keepdim: bool) -> None:
    mean, factors = _noisy(2, 3, 4, rank=5, size=0.3)
    for function in (Largest((1, 3), keepdim), Largest((2,), keepdim), LogSumExp(2, keepdim), Softmax(2)):
        assert start(mean, factors).coupled(function).shape == function(mean).shape


def test_moments_of_couplings_without_noise_are_the_function(start: Start, coupling: str) -> None:
    function, *_ = COUPLINGS[coupling]
    mean, factors = _noisy(4, 3, rank=2, size=0.0)
    actual = start(5 * mean, factors).coupled(function)
    torch.testing.assert_close(actual.mean, function(5 * mean), rtol=1e-9, atol=1e-9)
    assert (actual.variance <= 1e-12).all()


def test_moments_of_couplings_refuse_what_they_do_not_know(start: Start) -> None:
    class Own(Coupled):
        @override
        def __call__(self, x: Tensor) -> Tensor:
            return x

        @override
        def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
            return lower, upper

        @override
        def lipschitz(self, midpoint: Tensor, radius: Tensor, lower: Tensor, upper: Tensor) -> float:
            return 1.0

    value = start(*_independent(0.1))
    with pytest.raises(ModelError, match=r"Softmax, .* made use of Own\. Write the rule in those, or "):
        value.coupled(Own())


def test_moments_of_a_softmax_far_from_even_are_finite_and_near_it(start: Start) -> None:
    mean = torch.tensor([[0.0, 40.0, -300.0], [0.0, 0.0, -math.inf]])
    value = start(mean, 0.5 * torch.eye(3)).coupled(Softmax(1))
    assert value.variance.isfinite().all()
    torch.testing.assert_close(value.mean, mean.softmax(1), rtol=0, atol=1e-4)


def test_moments_of_a_softmax_leave_out_what_is_masked(start: Start) -> None:
    mask = torch.tensor([False, True, False])
    mean, factors = _independent(0.3)
    masked = start(mean, factors).monotone(Rearrange(lambda x: x.masked_fill(mask, -math.inf)))
    alone = start(mean[:, ~mask], factors[:, ~mask])
    actual, expected = (value.coupled(Softmax(1)) for value in (masked, alone))
    for moment, other in ((actual.mean, expected.mean), (actual.variance, expected.variance)):
        assert (moment[..., mask] == 0).all()
        torch.testing.assert_close(moment[..., ~mask], other)


# Maxima of two


def test_moments_of_the_larger_are_exact(sharing: Start) -> None:
    operands = [_noisy(2, 2, rank=2, size=0.7, seed=seed) for seed in range(2)]
    first, second = (sharing(*operand) for operand in operands)
    _assert_close(first.larger(second), _expected(torch.maximum, operands, 200), 0.01)


def test_moments_of_the_larger_of_a_value_and_itself_are_its_own(start: Start) -> None:
    value = start(*_independent(0.5))
    _assert_close(value.larger(value), Expected(value.mean, value.variance.expand_as(value.mean)), 1e-12)


# Gradients, and the first bend of a network


@pytest.mark.parametrize("size", [0.0, 0.3])
def test_moments_of_primitives_have_finite_gradients(start: Start, size: float) -> None:
    mean, factors = (part.float() for part in _independent(0.3))
    leaves = mean.abs().requires_grad_(), (size * factors).requires_grad_()
    other = start(0.5 - mean, size * factors)
    images: list[Callable[[Moments], Moments]] = [
        lambda x: x.product(other, Multiplication()),
        lambda x: x.product(x, Multiplication()),
        lambda x: x.larger(other),
        *(partial(_coupled, function=function) for function, *_ in COUPLINGS.values()),
        *(partial(_applied, function=function) for function, _ in STEEP.values()),
    ]
    for image in images:
        result = image(start(*leaves))
        total = result.mean.square().sum() + result.variance.square().sum()
        for gradient in torch.autograd.grad(total, leaves):
            assert gradient.isfinite().all()


BENDS: Mapping[str, Callable[..., Any]] = {
    "coupling": lambda x, y: x.coupled(Softmax(1)),
    "steep": lambda x, y: x.monotone(EXP),
    "product": lambda x, y: x.product(y, Multiplication()),
    "square": lambda x, y: x.product(x, Multiplication()),
    "larger": lambda x, y: x.larger(y),
}


@pytest.mark.parametrize("bend", BENDS)
def test_onset_bends_in_any_way_once(start: Start, bend: str) -> None:
    operands = _noisy(3, rank=2, size=0.3), _noisy(3, rank=2, size=0.3, seed=1)
    values = [start(*operand) for operand in operands]
    onset = BENDS[bend](*(Onset(value) for value in values))
    expected = BENDS[bend](*values)
    still = BENDS[bend](*(Point(value.center) for value in values)).center
    assert torch.equal(onset.moments.mean, expected.mean)
    assert torch.equal(onset.moments.variance, expected.variance)
    torch.testing.assert_close(onset.clean, still, rtol=0, atol=0)
    torch.testing.assert_close(onset.clean_and_mean, torch.cat([still, expected.mean]))
    for again in BENDS.values():  # as rules that go on, such as those of LayerNorm, do
        twice, of_moments = again(onset, onset), again(expected, expected)
        torch.testing.assert_close(twice.moments.mean, of_moments.mean)
        torch.testing.assert_close(twice.clean, again(Point(still), Point(still)).center)
