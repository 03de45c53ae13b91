from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from withstand.core.roots import farther, largest_positive

TOLERANCE = 1e-3
ROOTS = torch.logspace(-7, 0.5, 40, dtype=torch.float64)
SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "line": lambda x: 1 - x,
    "steep at the end": lambda x: 1 - x**6,
    "flat at the end": lambda x: (1 - x).pow(3),
    "exponential": lambda x: math.e - x.exp(),
    "step": lambda x: torch.where(x < 1, 1.0, -1.0),
    "flat, then infinite": lambda x: torch.where(x < 1, 1.0, -math.inf),
    "kinks": lambda x: torch.minimum(1 - x / 4, torch.minimum(2 - 2 * x, 9 - 9 * x)),
    "huge behind": lambda x: torch.where(x < 1, 1 - x, -1e30 * (x - 1)),
}


class Counted:
    """A shape stretched to each of the roots, that notes how often it is asked."""

    def __init__(self, shape: Callable[[Tensor], Tensor], roots: Tensor = ROOTS) -> None:
        self.shape = shape
        self.roots = roots
        self.asked = 0
        self.positive = torch.zeros_like(roots)

    def __call__(self, rows: Tensor, at: Tensor) -> Tensor:
        assert (at > 0).all()
        self.asked += len(rows)
        values = self.shape(at / self.roots[rows])
        self.positive[rows] = torch.where(values > 0, at, 0).maximum(self.positive[rows])
        return values


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_largest_positive_is_at_each_crossing_from_below(shape: Callable[[Tensor], Tensor]) -> None:
    counted = Counted(shape)
    result = largest_positive(counted, torch.ones_like(ROOTS), 4.0, TOLERANCE)
    assert torch.equal(result, counted.positive)  # seen positive, and the largest seen
    assert (result < ROOTS).all()
    assert (result >= ROOTS * (1 - TOLERANCE)).all()


@pytest.mark.parametrize(
    ("name", "most"), [("line", 5), ("exponential", 9), ("kinks", 14), ("steep at the end", 17)]
)
def test_largest_positive_asks_seldom(name: str, most: float) -> None:
    near = torch.linspace(0.003, 0.8, 30, dtype=torch.float64)  # of 4, as radii are in practice
    counted = Counted(SHAPES[name], near)
    largest_positive(counted, torch.ones_like(near), 4.0, TOLERANCE)
    assert counted.asked <= most * len(near)  # halving an interval takes 12, as soon as there is one


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.9995])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_farther_goes_on_to_each_crossing(shape: Callable[[Tensor], Tensor], share: float) -> None:
    counted, reached = Counted(shape), share * ROOTS
    result = farther(counted, reached, torch.ones_like(ROOTS), 4.0, TOLERANCE)
    assert torch.equal(result, counted.positive.maximum(reached))
    assert (result < ROOTS).all()
    assert (result >= ROOTS * (1 - TOLERANCE)).all()


def test_farther_asks_once_where_nothing_is_beyond() -> None:
    near = torch.linspace(0.003, 0.8, 30, dtype=torch.float64)
    counted, at_zero = Counted(SHAPES["line"], near), torch.ones_like(near)
    at_zero[:10] = -1.0  # wrong without an attack: never asked
    reached = near * (1 - TOLERANCE / 2) * (at_zero > 0)
    assert torch.equal(farther(counted, reached, at_zero, 4.0, TOLERANCE), reached)
    assert counted.asked == 20
    assert torch.equal(
        farther(counted, torch.full_like(near, 4.0), at_zero, 4.0, TOLERANCE)[:1],
        torch.tensor([4.0]).double(),
    )
    assert counted.asked == 20


def test_largest_positive_of_a_function_that_never_crosses_is_the_farthest_point() -> None:
    result = largest_positive(lambda rows, at: torch.ones_like(at), torch.ones(3).double(), 4.0, TOLERANCE)
    assert result.tolist() == [4.0] * 3
    rising = largest_positive(lambda rows, at: 1 + at, torch.ones(3).double(), 4.0, TOLERANCE)
    assert rising.tolist() == [4.0] * 3


@pytest.mark.parametrize("value", [0.0, -1.0, -math.inf])
def test_largest_positive_of_a_function_that_is_positive_nowhere_else_is_0(value: float) -> None:
    asked: list[int] = []

    def negative(rows: Tensor, at: Tensor) -> Tensor:
        asked.append(len(rows))
        return torch.full_like(at, value)

    assert largest_positive(negative, torch.ones(2).double(), 4.0, TOLERANCE).tolist() == [0.0, 0.0]
    assert len(asked) < 15


@pytest.mark.parametrize("at_zero", [0.0, -1.0, math.nan, -math.inf])
def test_largest_positive_does_not_ask_about_what_is_not_positive_at_0(at_zero: float) -> None:
    def refuse(rows: Tensor, at: Tensor) -> Tensor:
        assert rows.tolist() == [1]
        return 0.5 - at

    result = largest_positive(refuse, torch.tensor([at_zero, 0.5]).double(), 4.0, TOLERANCE)
    assert result[0] == 0
    assert 0.499 <= result[1] < 0.5


def test_largest_positive_of_no_functions_is_empty() -> None:
    assert largest_positive(lambda rows, at: at, torch.empty(0).double(), 4.0, TOLERANCE).shape == (0,)


@given(
    root=st.floats(1e-9, 3.9),
    power=st.floats(0.2, 8),
    height=st.floats(1e-9, 1e9),
    tolerance=st.sampled_from([1e-1, 1e-3, 1e-6]),
)
def test_largest_positive_is_at_any_crossing(
    root: float, power: float, height: float, tolerance: float
) -> None:
    def falling(rows: Tensor, at: Tensor) -> Tensor:
        return height * (1 - (at / root) ** power)

    result = largest_positive(falling, torch.full((1,), height).double(), 4.0, tolerance).item()
    assert root * (1 - tolerance) <= result < root
