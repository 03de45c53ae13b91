"""Proofs of goals over boxes, against nets so small that all their activation patterns can be tried."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from tests.domains.exact_margins import Exact, exact_minimum, goal_value
from withstand.certificates.goals import Goal
from withstand.certificates.proving import prove
from withstand.certificates.tighter import branched_differences, optimised_differences
from withstand.core.deadlines import OutOfTime, until
from withstand.domains import Box, Linear, Program
from withstand.domains.linear.linear_inputs import Interval
from withstand.graph.program_cache import sharing_programs
from withstand.operators import GuaranteedNorms

NETS = range(8)
CLOSE = 0.02  # of the goal to being broken, as a share of what the middle of the box has beyond the least


class Case(NamedTuple):
    """A net, a box, and a goal whose least value over the box is known."""

    model: nn.Sequential
    lower: Tensor
    upper: Tensor
    goal: Goal
    exact: Exact

    def shifted(self, share: float) -> Case:
        """A goal as far above 0 at its least, as a share of how much the middle of the box has beyond it."""
        middle = goal_value(self.model, (self.lower + self.upper) / 2, *self.goal)
        amount = share * (middle - self.exact.value + 1e-2) - self.exact.value
        goal = self.goal._replace(bias=self.goal.bias + amount)
        return self._replace(goal=goal, exact=Exact(self.exact.value + amount, self.exact.minimiser))

    def require_sound(self, deadline: float) -> str:
        """Tries to prove it, and checks whatever is answered; the verdict."""
        proof = prove(self.model, self.lower, self.upper, self.goal, deadline=deadline)
        assert proof.bound <= self.exact.value + 1e-6
        if proof.verdict == "proven":
            assert self.exact.value > 0
        assert (proof.counterexample is not None) == (proof.verdict == "refuted")
        if (point := proof.counterexample) is not None:
            assert ((point >= self.lower) & (point <= self.upper)).all()
            assert goal_value(self.model, point, *self.goal) <= 0
        return proof.verdict


@cache
def _case(seed: int) -> Case:
    torch.manual_seed(seed)
    size, hidden = 2 + seed % 3, 4 + seed % 2
    if seed % 4 == 3:
        parts: list[nn.Module] = [
            nn.Unflatten(1, (1, size)),
            nn.Conv1d(1, 2, 2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        ]
        parts += [nn.Linear(2 * size + 2, 3), nn.ReLU(), nn.Linear(3, 3)]
    else:
        bend: nn.Module = nn.LeakyReLU(0.1) if seed % 4 == 2 else nn.ReLU()
        parts = [nn.Linear(size, hidden), bend, nn.Linear(hidden, 4), nn.ReLU(), nn.Linear(4, 3)]
    model = nn.Sequential(*parts).double().eval().requires_grad_(False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.8)
    center, half = torch.rand(size).double(), 0.5 * torch.rand(size).double() + 0.1
    lower, upper = center - half, center + half
    count = 1 + seed % 4
    groups = torch.arange(count) % min(count, 1 + seed % 3)
    goal = Goal(torch.randn(count, 3).double(), torch.randn(count).double(), groups)
    return Case(model, lower, upper, goal, exact_minimum(model, lower, upper, *goal))


@pytest.mark.parametrize("seed", NETS)
def test_proofs_are_found_just_above_the_least_value_and_counterexamples_just_below(
    seed: int, way: str
) -> None:
    deadline = time.monotonic() + 100
    assert _case(seed).shifted(CLOSE).require_sound(deadline) == "proven"
    assert _case(seed).shifted(-CLOSE).require_sound(deadline) == "refuted"


@pytest.mark.parametrize("seed", NETS)
def test_proofs_are_sound_whenever_they_are_stopped(seed: int, way: str, without_attack: None) -> None:
    with sharing_programs():  # so that the graph is captured in the first of these times alone
        for seconds in (0.0, 1e-3, 3e-3, 0.01, 0.03):
            for share in (0.5, CLOSE, -1e-6, -0.3):
                started = time.monotonic()
                _case(seed).shifted(share).require_sound(started + seconds)
                assert time.monotonic() - started < 10


def test_proof_without_time_says_nothing(way: str) -> None:
    case = _case(0).shifted(10.0)
    assert prove(case.model, case.lower, case.upper, case.goal, deadline=time.monotonic() - 1) == (
        "timeout",
        -math.inf,
        None,
        0,
    )


@pytest.mark.parametrize("seconds", [-1.0, 0.02, 3.0])
@pytest.mark.parametrize("seed", list(NETS)[:4])
def test_bounds_come_in_the_order_of_what_they_cost_whenever_they_are_stopped(
    seed: int, seconds: float
) -> None:
    case, unit = _case(seed), torch.eye(3).double()
    box = Box(case.lower[None], case.upper[None])
    label = case.model(box.center).argmax(1)
    with torch.no_grad(), until(math.inf):
        program = Program(case.model, box.center)
        last = program.run_to_last_layer(Linear.of(Interval(*box.ends), box), GuaranteedNorms())
        fixed = last.differences(label)
    with torch.no_grad(), until(time.monotonic() + seconds):
        optimised = fixed
        with suppress(OutOfTime):
            optimised = optimised_differences(last, label)
        branched = branched_differences(last, label, optimised, case.model)
    exact = [-_least(case, unit[label[0]] - other) for other in unit]
    assert (optimised <= fixed + 1e-12).all()
    assert (branched <= optimised + 1e-12).all()
    assert (branched[0] >= torch.tensor(exact).double() - 1e-6).all()
    if seconds > 1 and max(part for k, part in enumerate(exact) if k != label) < -1e-3:
        assert (branched[0, torch.arange(3) != label] < 0).all()


def _least(case: Case, weight: Tensor) -> float:
    return exact_minimum(case.model, case.lower, case.upper, weight[None], torch.zeros(1).double()).value
