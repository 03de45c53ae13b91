"""The worst difference of logits over a ball ∩ a box, against references of other making."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, NonlinearConstraint, minimize
from torch import Tensor

from withstand.domains.sets import worst_case
from withstand.domains.sets.worst_case import ball_box_gains, box_gains

Vector = npt.NDArray[np.longdouble]


class Instance(NamedTuple):
    """What ``ball_box_gains`` takes."""

    weight: Tensor
    labels: Tensor
    below: Tensor
    above: Tensor
    radius: Tensor

    def gains(self, num_steps: int | None = None) -> Tensor:
        return ball_box_gains(*self, num_steps=num_steps)

    def expected(self) -> Tensor:
        """The maxima by sorting, in extended precision."""
        weight, below, above, radius = (
            part.double().numpy().astype(np.longdouble)
            for part in (self.weight, self.below, self.above, self.radius)
        )
        rows = [
            [_by_sorting(direction - weight[label], low, high, reach) for direction in weight]
            for label, low, high, reach in zip(self.labels.tolist(), below, above, radius, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float64)

    def float(self) -> Instance:
        """In single precision."""
        return Instance(
            self.weight.float(), self.labels, self.below.float(), self.above.float(), self.radius.float()
        )


def _by_sorting(direction: Vector, below: Vector, above: Vector, radius: np.longdouble) -> float:
    """max w·d over ‖d‖ ≤ r and the box: all breakpoints t at which a coordinate meets its wall, sorted."""
    size, wall = abs(direction), np.where(direction > 0, above, -below)
    size, wall = size[direction != 0], wall[direction != 0]
    if (wall**2).sum() <= radius**2:
        return float((size * wall).sum())
    order = np.argsort(wall / size)
    size, wall = size[order], wall[order]
    met = np.concatenate([[np.longdouble(0)], (wall**2).cumsum()])[:-1]  # before each breakpoint
    free = (size[::-1] ** 2).cumsum()[::-1]  # from each breakpoint on
    lengths = met + (wall / size) ** 2 * free
    first = int(np.argmax(lengths >= radius**2))
    scale = np.sqrt((radius**2 - met[first]) / free[first])
    return float((size * np.minimum(scale * size, wall)).sum())


def instance(
    seed: int, hidden: int = 12, *, scale: float = 1.0, reach: float = 1.0, kind: str = "plain"
) -> Instance:
    """Six examples and four classes; ``kind`` names what is degenerate."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weight, labels = scale * draw(4, hidden), torch.tensor([0, 1, 2, 3, 0, 1])
    below, above = -reach * draw(6, hidden).abs(), reach * draw(6, hidden).abs()
    # From far inside the box to all around it.
    radius = reach * math.sqrt(hidden) * torch.logspace(-2, 0.7, 6, dtype=torch.float64)
    if kind == "no-radius":
        radius[::2] = 0
    elif kind == "no-box":
        below[:, ::2], above[:, 1::2], above[0], below[0] = 0, 0, 0, 0
    elif kind == "no-weight":
        weight[1], weight[:, ::3] = weight[0], 1.5
    elif kind == "far-walls":
        below, above = below - 1e30, above * 1e25
    elif kind == "one-length":
        below, above = torch.full_like(below, -reach), torch.full_like(above, reach)
        weight = scale * weight.sign()
    elif kind == "geometric":  # the walls are met one by one, each far from the last
        above = reach * 1.5 ** -torch.arange(hidden, dtype=torch.float64).expand(6, hidden)
        below, weight = -above, scale * weight.sign() * 3.0 ** torch.arange(hidden, dtype=torch.float64)
    return Instance(weight, labels, below, above, radius)


KINDS = ("plain", "no-radius", "no-box", "no-weight", "far-walls", "one-length", "geometric")


def _assert_equal(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=1e-300)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("reach", [1e-9, 1.0, 1e9])
def test_ball_box_gains_are_the_maximum(kind: str, scale: float, reach: float) -> None:
    for seed, hidden in enumerate((1, 2, 5, 40)):
        result = instance(seed, hidden, scale=scale, reach=reach, kind=kind)
        _assert_equal(result.gains(), result.expected(), 1e-9)


@given(
    seed=st.integers(0, 10**6),
    hidden=st.integers(1, 300),
    scale=st.floats(-9, 9),
    reach=st.floats(-9, 9),
    kind=st.sampled_from(KINDS),
)
@settings(max_examples=60, deadline=None)
def test_ball_box_gains_are_the_maximum_whatever_the_sizes(
    seed: int, hidden: int, scale: float, reach: float, kind: str
) -> None:
    hidden = min(hidden, 60) if kind == "geometric" else hidden
    result = instance(seed, hidden, scale=10**scale, reach=10**reach, kind=kind)
    _assert_equal(result.gains(), result.expected(), 1e-9)


def _by_solver(direction: Any, below: Any, above: Any, radius: float) -> float:
    """The same maximum by a general solver, to about 1e-7."""
    problem: dict[str, Any] = {
        "fun": lambda d: -(direction @ d),
        "x0": np.zeros(len(direction)),
        "jac": lambda d: -direction,
        "bounds": Bounds(below, above),
        "constraints": NonlinearConstraint(lambda d: d @ d, -np.inf, radius**2, jac=lambda d: 2 * d),
        "method": "SLSQP",
        "options": {"ftol": 1e-12},
    }
    return -float(minimize(**problem).fun)


@pytest.mark.parametrize("seed", range(5))
def test_ball_box_gains_are_those_of_a_general_solver(seed: int) -> None:
    result = instance(seed, hidden=5)
    gains = result.gains()
    for row, label in enumerate(result.labels.tolist()):
        directions = (result.weight - result.weight[label]).numpy()
        around = result.below[row].numpy(), result.above[row].numpy(), float(result.radius[row])
        solved = [_by_solver(direction, *around) for direction in directions]
        assert gains[row].tolist() == pytest.approx(solved, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_steps", [0, 1, 2, 3])
def test_ball_box_gains_bound_after_any_number_of_steps(kind: str, num_steps: int) -> None:
    for seed in range(20):
        actual = instance(seed, hidden=20, kind=kind)
        expected = actual.expected()
        assert (actual.gains(num_steps) >= expected * (1 - 1e-14)).all()
    if num_steps == 0 and kind == "plain":
        assert (actual.gains(num_steps) > expected * (1 + 1e-6)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_ball_box_gains_in_single_precision_bound_within_rounding(kind: str) -> None:
    for seed in range(20):
        actual = instance(seed, hidden=200 if kind != "geometric" else 20, kind=kind).float()
        single, expected = actual.gains().double(), actual.expected()
        assert (single >= expected * (1 - 1e-5)).all()
        assert (single <= expected * (1 + 1e-4) + 1e-12).all()


def test_ball_box_gains_are_never_above_those_of_ball_and_box() -> None:
    for kind in KINDS:
        weight, labels, below, above, radius = result = instance(3, kind=kind)
        direction = weight[None] - weight[labels, None]
        ball = radius[:, None] * direction.norm(dim=-1)
        box = torch.maximum(direction * below[:, None], direction * above[:, None]).sum(-1)
        for num_steps in (0, 1, None):
            assert (result.gains(num_steps) <= torch.minimum(ball, box) * (1 + 1e-12)).all()


def test_ball_box_gains_of_the_true_class_are_none() -> None:
    for kind in KINDS:
        result = instance(4, kind=kind)
        assert (result.gains()[torch.arange(6), result.labels] == 0).all()


@pytest.mark.parametrize("part", ["weight", "below", "above", "radius"])
def test_ball_box_gains_of_what_is_not_a_number_are_no_number(part: str) -> None:
    result = instance(0)
    spoilt = getattr(result, part).clone()
    spoilt[0] = math.nan
    gains = result._replace(**{part: spoilt}).gains()
    others = [1, 2, 3]  # of the first example, whose class is the first
    assert gains[0, others].isnan().all()


def test_ball_box_gains_of_an_empty_batch_are_empty() -> None:
    weight, labels, below, above, radius = instance(0)
    empty = ball_box_gains(weight, labels[:0], below[:0], above[:0], radius[:0])
    assert empty.shape == (0, 4)
    assert box_gains(weight, labels[:0], above[:0]).shape == (0, 4)


# Gradients


def _leaves(result: Instance) -> list[Tensor]:
    floats = (result.weight, result.below, result.above, result.radius)
    return [part.clone().requires_grad_() for part in floats]


@pytest.mark.parametrize("reach", [0.3, 1.0, 3.0])
def test_ball_box_gains_have_the_gradients_of_finite_differences(reach: float) -> None:
    for seed in range(2):
        result = instance(seed, hidden=7, reach=reach)

        def gains(weight: Tensor, below: Tensor, above: Tensor, radius: Tensor) -> Tensor:
            return ball_box_gains(weight, result.labels, below, above, radius)  # noqa: B023

        assert torch.autograd.gradcheck(gains, _leaves(result), eps=1e-6, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_steps", [0, 2, None])
def test_ball_box_gains_have_gradients_that_are_numbers_where_all_is_degenerate(
    kind: str, num_steps: int | None
) -> None:
    weight, below, above, radius = _leaves(result := instance(1, kind=kind))
    gains = ball_box_gains(weight, result.labels, below, above, radius, num_steps=num_steps)
    for gradient in torch.autograd.grad(gains.sum(), [weight, below, above, radius]):
        assert gradient.isfinite().all()


# Chunks


def _with_gradients(result: Instance) -> list[Tensor]:
    weight, below, above, radius = _leaves(result)
    upstream = torch.arange(24, dtype=torch.float64).reshape(6, 4)
    gains = ball_box_gains(weight, result.labels, below, above, radius)
    width = (above - below) / 2
    boxed = box_gains(weight, result.labels, width)
    parts = [weight, below, above, radius]
    gradients = torch.autograd.grad((upstream * gains).sum(), parts)
    return [gains, boxed, *gradients, *torch.autograd.grad((upstream * boxed).sum(), parts[:3])]


@pytest.mark.parametrize("size", [1, 100, 150])
def test_ball_box_gains_do_not_depend_on_chunks(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    result = instance(2)
    whole = _with_gradients(result)
    monkeypatch.setattr(worst_case, "_CHUNK", size)
    _assert_all_close(_with_gradients(result), whole)


def _assert_all_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_box_gains_are_the_sums_of_its_sides() -> None:
    weight, labels, _, above, _ = instance(5)
    expected: Any = ((weight[None] - weight[labels, None]).abs() * above[:, None]).sum(-1)
    torch.testing.assert_close(box_gains(weight, labels, above), expected)
