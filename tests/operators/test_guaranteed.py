from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self, TypeAlias

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from withstand.operators import (
    Convolution,
    Dense,
    Diagonal,
    LinearOperator,
    Separable,
    Shape,
    guaranteed,
    upper_bound,
)

Matrix: TypeAlias = Callable[[LinearOperator, Shape], Tensor]


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _singular(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, ord=2))


def _assert_near_above(bound: Tensor, exact: float) -> None:
    assert bound.dtype == torch.float64
    assert exact <= bound.item() <= exact * (1 + 1e-5) + 1e-130


class _Plain(LinearOperator):
    """A matrix, as someone else may write it."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    @override
    def apply(self, x: Tensor) -> Tensor:
        return x @ self.matrix.T

    @override
    def entrywise(self, function: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(function(self.matrix))

    @property
    @override
    def entries(self) -> Tensor:
        return self.matrix


class _Upside(Dense):
    """Derived from a class that is known, but another map."""

    @override
    def apply(self, x: Tensor) -> Tensor:
        return 2 * super().apply(x)

    @override
    def transposed(self, y: Tensor, input_shape: Shape) -> Tensor:
        return 2 * super().transposed(y, input_shape)


def _orthogonal(rows: int, columns: int) -> Tensor:
    left, _, right = torch.linalg.svd(_random(rows, columns), full_matrices=False)
    product: Tensor = left @ right
    return product


def _hilbert(side: int) -> Tensor:
    index = torch.arange(side, dtype=torch.float64)
    return 1 / (index[:, None] + index + 1)


MATRICES = {
    "tall": _random(90, 20),
    "wide": _random(20, 90),
    "all singular values equal": _orthogonal(30, 40),
    "all nearly equal": _orthogonal(30, 40) + 1e-9 * _random(30, 40),
    "all equal, large": _orthogonal(150, 150),
    "all nearly equal, large": _orthogonal(150, 160) + 1e-7 * _random(150, 160),
    "random, large": _random(160, 150),
    "one far above": _orthogonal(150, 150) + 1e6 * torch.outer(_random(150), _random(150, seed=1)),
    "Hilbert": _hilbert(40),
    "Hilbert, large": _hilbert(140),
    "rank 1": torch.outer(_random(30), _random(20)),
    "rank 2, large": _random(200, 2) @ _random(2, 140),
    "one entry": torch.zeros(140, 140, dtype=torch.float64).index_put_(
        (torch.tensor(7),) * 2, torch.tensor(-3.0).double()
    ),
    "a number": torch.tensor([[-2.5]], dtype=torch.float64),
    "far apart": torch.diag(10.0 ** torch.arange(0, -300, -10, dtype=torch.float64)),
}


@pytest.mark.parametrize("weight", MATRICES.values(), ids=MATRICES.keys())
def test_upper_bound_of_a_matrix_is_close(weight: Tensor) -> None:
    _assert_near_above(upper_bound(Dense(weight), (weight.shape[1],)), _singular(weight))


@pytest.mark.parametrize("exponent", [-1060, -1000, -160, -20, 0, 20, 160, 1000])
def test_upper_bound_takes_any_scale(exponent: int, route: str) -> None:
    small = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    for operator, shape in ((Dense, (2,)), (lambda w: Convolution(w[..., None], [1], [0], [1]), (2, 3))):
        bound = upper_bound(
            operator(small * 2.0 ** (exponent // 2) * 2.0 ** (exponent - exponent // 2)), shape
        )
        scaled = bound.item() * 2.0 ** (-exponent // 2) * 2.0 ** (-exponent - -exponent // 2)
        assert 5 <= scaled <= 5.0002


def test_upper_bound_beyond_float64_is_infinite() -> None:
    assert upper_bound(Dense(torch.full((9, 9), 1e308, dtype=torch.float64)), (9,)).item() == math.inf


def test_upper_bound_of_zero_is_zero(route: str) -> None:
    weight = torch.zeros(3, 2, 3, 3)
    assert upper_bound(Dense(weight[0, 0]), (3,)) == 0
    assert upper_bound(Convolution(weight, [1, 1], [1, 1], [1, 1]), (2, 5, 5)) == 0
    assert upper_bound(Diagonal(weight[0]), (2, 3, 3)) == 0
    assert upper_bound(_Plain(weight[0, 0]), (3,)) == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_upper_bound_of_what_is_not_finite_certifies_nothing(bad: float, route: str) -> None:
    weight = torch.ones(3, 2, 3, 3)
    weight[1, 0, 2, 0] = bad
    operators: list[tuple[LinearOperator, Shape]] = [
        (Dense(weight[1, 0]), (3,)),
        (Convolution(weight, [1, 1], [1, 1], [1, 1]), (2, 5, 5)),
        (Convolution(weight, [1, 1], [1, 1], [1, 1]), (2, 1, 1)),  # the bad tap reaches nothing
        (Diagonal(weight[1]), (2, 3, 3)),
        (Separable([1, 2], [weight[1, 0], weight[0, 0]]), (3, 3)),
        (_Plain(weight[1, 0]), (3,)),
    ]
    for operator, shape in operators:
        assert upper_bound(operator, shape).item() == math.inf


# Operators of others, and closed forms.


@pytest.mark.parametrize("kind", [_Plain, _Upside])
@pytest.mark.parametrize(
    "weight", [_random(5, 9), _random(9, 5), 1e-200 * _random(4, 4), 1e200 * _random(4, 4)]
)
def test_upper_bound_of_operators_of_others_is_close(
    kind: Callable[[Tensor], LinearOperator], weight: Tensor, matrix: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guaranteed, "_CHUNK", 20)  # several chunks
    operator, shape = kind(weight), (weight.shape[1],)
    _assert_near_above(upper_bound(operator, shape), _singular(matrix(operator, shape)))


def test_upper_bound_of_what_is_too_large_comes_from_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guaranteed, "_TIGHT", guaranteed._TIGHT._replace(rows=4))
    weight = _random(5, 9)
    sums = (weight.abs().sum(dim=1).max() * weight.abs().sum(dim=0).max()).sqrt().item()
    assert sums > 1.1 * _singular(weight)
    for operator in (Dense(weight), _Plain(weight)):
        assert sums <= upper_bound(operator, (9,)).item() <= sums * 1.000001


def test_upper_bound_takes_closed_forms() -> None:
    scale = torch.tensor([[1.0], [-3.0]])
    bound = upper_bound(Diagonal(scale), (2, 50_000)).item()
    assert 3 < bound <= 3 * (1 + 1e-9)
    factors = [_random(4, 6), _random(3, 5)]
    exact = _singular(factors[0]) * _singular(factors[1])
    assert exact < upper_bound(Separable([1, 2], factors), (6, 5)).item() <= exact * (1 + 1e-11)


def test_upper_bound_computes_float32_closed_forms_in_float64() -> None:
    factors = [_random(30, 40).float(), _random(20, 50, seed=1).float()]
    exact = math.prod(_singular(factor.double()) for factor in factors)
    assert exact < upper_bound(Separable([1, 2], factors), (40, 50)).item() <= exact * (1 + 1e-11)


def test_upper_bound_is_a_scalar_without_gradient() -> None:
    bound = upper_bound(Dense(_random(3, 3).requires_grad_()), (3,))
    assert bound.shape == ()
    assert not bound.requires_grad


def test_upper_bound_works_in_inference_mode(route: str) -> None:
    operator = Convolution(_random(3, 2, 3, 3), [1, 1], [1, 1], [1, 1])
    expected = upper_bound(operator, (2, 5, 5)).item()
    plain = _Plain(_random(3, 3))
    with torch.inference_mode():
        assert upper_bound(operator, (2, 5, 5)).item() == expected
        assert upper_bound(operator.entrywise(torch.neg), (2, 5, 5)).item() == pytest.approx(expected)
        assert upper_bound(plain, (3,)).item() > 0
