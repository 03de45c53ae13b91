"""Goals over boxes: never proven where a counter-example exists, never refuted where there is none."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from withstand.certificates.goals import Goal
from withstand.certificates.proving import attack, prove
from withstand.core.deadlines import OutOfTime, require_time, until
from withstand.graph.program_cache import sharing_programs

NUM_HIDDEN = 4


def small_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, NUM_HIDDEN), nn.ReLU(), nn.Linear(NUM_HIDDEN, 3)).double().eval()


def goal_of(rows: list[list[float]], groups: list[int]) -> Goal:
    return Goal(torch.tensor(rows).double(), torch.zeros(len(rows)).double(), torch.tensor(groups))


ROBUST = goal_of([[1, -1, 0], [1, 0, -1]], [0, 1])


def least_margin(net: nn.Sequential, lower: Tensor, upper: Tensor, goal: Goal) -> float:
    """The exact minimum over a box of groups of one row each: where lines of bends and walls meet.

    Between them every row is affine, so that it is least where two of these lines cross.
    """
    weight, bias, *_ = (part.detach() for part in net.parameters())
    lines = [(row, -shift) for row, shift in zip(weight.tolist(), bias.tolist(), strict=True)]
    for axis in range(2):
        unit = [float(axis == 0), float(axis == 1)]
        lines += [(unit, float(lower[axis])), (unit, float(upper[axis]))]
    corners = []
    for (a, c), (b, d) in itertools.combinations(lines, 2):
        matrix = torch.tensor([a, b], dtype=torch.float64)
        if abs(float(torch.linalg.det(matrix))) > 1e-9:
            corners.append(torch.linalg.solve(matrix, torch.tensor([c, d], dtype=torch.float64)))
    points = torch.stack(corners)
    inside = ((points >= lower - 1e-9) & (points <= upper + 1e-9)).all(dim=1)
    return float(goal.margins(goal.rows(net(points[inside]))).min())


@torch.no_grad()
def test_verdicts_agree_with_the_exact_minimum_over_all_activation_patterns() -> None:
    net, verdicts = small_net(), Counter[str]()
    with sharing_programs():
        for seed in range(36):
            torch.manual_seed(seed)
            for part in net.parameters():
                part.copy_(torch.randn(part.shape))
            center, reach = torch.randn(2).double(), [0.05, 0.2, 0.6][seed % 3]
            lower, upper = center - reach, center + reach
            label = int(net(center[None])[0].argmax())
            order = torch.tensor([label, *(index for index in range(3) if index != label)])
            goal = ROBUST._replace(weight=ROBUST.weight[:, order.argsort()])
            exact = least_margin(net, lower, upper, goal)
            proof = prove(net, lower, upper, goal, deadline=time.monotonic() + 20)
            verdicts[proof.verdict] += 1
            assert proof.bound <= exact + 1e-9
            assert proof.verdict != "proven" or exact > 0
            assert proof.verdict != "refuted" or exact <= 1e-9
            if proof.counterexample is not None:
                assert ((proof.counterexample >= lower) & (proof.counterexample <= upper)).all()
                assert float(goal.margins(goal.rows(net(proof.counterexample[None])))) <= 0
    assert verdicts["proven"] >= 12
    assert verdicts["refuted"] >= 5


def test_margin_is_the_least_of_groups_of_the_largest_of_rows() -> None:
    goal = goal_of([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [0, 0, 1])
    rows = goal.rows(torch.tensor([[-1.0, 2, 3], [-1, -2, 3], [5, 5, math.nan]]).double())
    assert goal.margins(rows)[:2].tolist() == [2, -1]
    assert goal.margins(rows)[2].isnan()


def test_goal_without_groups_is_proven_of_all() -> None:
    goal = Goal(torch.zeros(0, 3).double(), torch.zeros(0).double(), torch.zeros(0, dtype=torch.int64))
    proof = prove(small_net(), torch.zeros(2).double(), torch.ones(2).double(), goal, deadline=math.inf)
    assert proof.verdict == "proven"


def test_answers_that_are_not_finite_are_neither_proven_nor_refuted() -> None:
    net = small_net()
    with torch.no_grad():
        list(net.parameters())[-1][0] = math.nan
    proof = prove(net, torch.zeros(2).double(), torch.ones(2).double(), ROBUST, deadline=math.inf)
    assert (proof.verdict, proof.bound) == ("unknown", -math.inf)


def test_attack_finds_the_only_corner_that_meets_a_conjunction() -> None:
    net = nn.Sequential(nn.Linear(2, 3, bias=False)).double()
    with torch.no_grad():
        next(net.parameters()).copy_(torch.tensor([[-1.0, 0], [0, 1], [0, 0]]))
    both = Goal(torch.eye(3).double()[:2], torch.tensor([0.99, 0.99]).double(), torch.tensor([0, 0]))
    lower, upper = -torch.ones(2).double(), torch.ones(2).double()
    point = attack(net, lower, upper, both, lambda point: point)
    assert point is not None
    assert point[0] >= 0.99
    assert point[1] <= -0.99
    assert attack(net, lower, upper, both, lambda point: None) is None  # nothing counts


class Slow(nn.Module):
    """Takes a twentieth of a second a pass."""

    def forward(self, inputs: Tensor) -> Tensor:
        time.sleep(0.05)
        return inputs.sum(1, keepdim=True).expand(-1, 3) * torch.tensor([1.0, 0, 0])


def test_attack_ends_soon_after_its_deadline() -> None:
    begun = time.monotonic()
    proof = prove(Slow(), torch.ones(2).double(), torch.ones(2).double(), ROBUST, deadline=begun + 0.3)
    assert proof.verdict == "timeout"
    assert time.monotonic() - begun < 2


def test_deadline_within_another_does_not_put_it_off() -> None:
    with until(time.monotonic() - 1), until(math.inf), pytest.raises(OutOfTime):
        require_time()
    require_time()
