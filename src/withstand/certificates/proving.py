"""Proves a goal of a network over a box of inputs, or finds a counter-example.

A short attack comes first: where it succeeds there is nothing to prove. Then bounds. What is proven, and what
of rounding is not accounted for, is as of ``certificates.certify``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from withstand.certificates.boxes import Planes, split_boxes
from withstand.certificates.branching import branched
from withstand.certificates.goals import Goal, Proof, ProofVerdict, functions_of, least_rows
from withstand.certificates.splits import Branched
from withstand.core.deadlines import OutOfTime, is_time_up, require_time, until
from withstand.core.numerics import numerics
from withstand.domains import Box, LastLayer, ProgramCache, Region
from withstand.domains.linear.backward import pulled_back
from withstand.domains.linear.linear import Linear
from withstand.domains.linear.linear_inputs import Interval
from withstand.domains.linear.nodes import Ends, Rows
from withstand.graph.program import Program
from withstand.operators import GuaranteedNorms

_NUM_STARTS = 32
_NUM_ATTACKS = 5  # each from other starts
_PASS = 0.2  # seconds that a pass of all starts may take
_MOST_ENTRIES = 2**22  # of all starts together
_FEW_INPUTS = 20  # of as many at most, boxes of inputs are split
_STEPS = (0.5, 0.005, 60)  # the first, the last, in half-widths of the box, and how many
_NEAR_STEPS = (0.05, 0.0005, 15)  # from where bounds point to
_NUM_NEAR = 8

Confirm = Callable[[Tensor], Tensor | None]
"""From a point (*shape) of the box, of which in float64 the goal does not hold, to the counter-example that
counts, such as that point in the model's own precision; or None where it is none after all."""


def prove(
    model: nn.Module,
    lower: Tensor,
    upper: Tensor,
    goal: Goal,
    *,
    deadline: float,
    confirm: Confirm = lambda point: point,
) -> Proof:
    """Tries to prove a goal of all inputs of a box, or to find one of which it does not hold.

    Args:
        model: In float64 and eval mode, as ``core.float64_copy`` gives it; maps (batch, *shape) to (batch,
            outputs). Within ``sharing_programs`` its graph is captured once for many proofs.
        lower: Float64 tensor (*shape): the least values.
        upper: The largest, nowhere below.
        goal: What is to hold.
        deadline: When to stop, in seconds of ``time.monotonic``; kept within about a second.
        confirm: Decides which points count as counter-examples.

    Raises:
        UnsupportedOperationError: there is no rule for an operation of the model.
        ModelError: it computes something else than its graph, or gives another number of outputs.
    """
    attempt = _Attempt(model, lower, upper, goal, confirm)
    with torch.no_grad(), numerics("fp32"), until(deadline):
        try:
            return attempt.run()
        except OutOfTime:
            return attempt.proof("timeout")


def attack(
    model: nn.Module, lower: Tensor, upper: Tensor, goal: Goal, confirm: Confirm, *, seed: int = 0
) -> Tensor | None:
    """Searches a box for a counter-example, by projected signed-gradient descent from random starts.

    Each start has a group of the goal to break, those first that are nearest to broken at the middle.

    Args:
        model: As ``prove`` takes it.
        lower: The least values (*shape).
        upper: The largest.
        goal: What is to hold.
        confirm: Decides which points count.
        seed: Of the starts.

    Returns:
        What ``confirm`` made of the first point that it took, (*shape); None where none was found.
    """
    if not goal.num_groups:
        return None
    begun = time.monotonic()
    _rows(model, goal, (lower + (upper - lower) / 2)[None])
    starts = _starts(lower, upper, seed, time.monotonic() - begun)
    return _descended(model, (lower, upper), goal, confirm, starts)


def _descended(
    model: nn.Module,
    box: Ends,
    goal: Goal,
    confirm: Confirm,
    points: Tensor,
    sizes: tuple[float, float, int] = _STEPS,
) -> Tensor | None:
    """The same from starts (starts, *shape), with steps from one size to another, and how many."""
    lower, upper = box
    half, (first, last, count) = (upper - lower) / 2, sizes
    order = goal.group_margins(_rows(model, goal, points[:1]))[0].argsort()
    target = order.repeat(-(-len(points) // len(order)))[: len(points), None]
    for size in [*torch.logspace(math.log10(first), math.log10(last), count).tolist(), 0.0]:
        require_time()
        with torch.enable_grad():
            points.requires_grad_()
            rows = _rows(model, goal, points)
            broken = rows.new_zeros(len(rows), goal.num_groups)
            broken = broken.index_add(1, goal.groups, rows.clamp_min(0)) + goal.group_margins(rows)
            (slope,) = torch.autograd.grad(broken.gather(1, target).sum() + 0 * points.sum(), points)
        points, margins = points.detach(), goal.margins(rows.detach()).nan_to_num(nan=math.inf)
        if float(margins.min()) <= 0 and (broken_at := confirm(points[margins.argmin()])) is not None:
            return broken_at
        points = (points - size * half * slope.sign()).clamp(lower, upper)
    return None


def _starts(lower: Tensor, upper: Tensor, seed: int, seconds: float) -> Tensor:
    """Random points, (starts, *shape); of seed 0 the middle of the box comes first.

    As many as a step takes some tenths of a second for, where a pass of one takes ``seconds``.
    """
    most = min(_NUM_STARTS, _MOST_ENTRIES // max(1, lower.numel()), int(_PASS / max(seconds, 1e-6)))
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(max(2, most), *lower.shape, generator=generator, dtype=lower.dtype).to(lower.device)
    places[0] = places[0] if seed else 0.5
    return (lower + (upper - lower) * places).clamp(lower, upper)


def _rows(model: nn.Module, goal: Goal, points: Tensor) -> Tensor:
    return goal.rows(model(points))


@dataclass(eq=False)
class _Attempt:
    """A proof on its way.

    Attributes:
        rows: Sound lower bounds of the goal's rows, (rows,).
        bound: A sound lower bound of its margin, by these and by what was taken apart.
    """

    model: nn.Module
    lower: Tensor
    upper: Tensor
    goal: Goal
    confirm: Confirm
    bound: float = field(default=-math.inf, init=False)
    num_splits: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.rows = torch.full_like(self.goal.bias, -math.inf)

    def proof(self, verdict: ProofVerdict, counterexample: Tensor | None = None) -> Proof:
        """What came of it."""
        return Proof(verdict, self.bound, counterexample, self.num_splits)

    def run(self) -> Proof:
        """The quick ways first; ends when the time is up."""
        if not self.goal.num_groups:
            self.bound = math.inf
            return self.proof("proven")
        for seed in range(_NUM_ATTACKS):
            counterexample = attack(self.model, self.lower, self.upper, self.goal, self.confirm, seed=seed)
            if counterexample is not None:
                return self.proof("refuted", counterexample)
            if seed == 0:
                last = self._bounded()
                if self.bound > 0:
                    return self.proof("proven")
        branched = self._branched(last)
        self.num_splits = branched.num_splits
        if branched.counterexample is not None:
            return self.proof("refuted", branched.counterexample)
        proven = self.goal.group_margins(self.rows[None])[0]
        self.bound = max(self.bound, min([branched.bound, *proven[proven > 0].tolist()]))
        if self.bound > 0:
            return self.proof("proven")
        return self.proof("timeout" if is_time_up() else "unknown")

    def _bounded(self) -> LastLayer:
        """Bounds the rows by a box and, unless that is enough, by lines; what came of the last."""
        box = Box(self.lower[None], self.upper[None])
        sets: list[Region] = [box, Linear.of(Interval(*box.ends), box)]
        for value in sets:
            last = self._program.run_to_last_layer(value, self._norms)
            self.rows = torch.maximum(self.rows, least_rows(last, functions_of(last, *self.goal[:2]))[0])
            self.bound = float(self.goal.margins(self.rows[None])[0])
            if self.bound > 0:
                break
        return last

    def _branched(self, last: LastLayer) -> Branched:
        """Branch and bound of the groups that are not proven."""
        is_open = self.goal.group_margins(self.rows[None])[0, self.goal.groups] <= 0
        _, groups = torch.unique(self.goal.groups[is_open], return_inverse=True)
        left = Goal(self.goal.weight[is_open], self.goal.bias[is_open], groups)
        varies = (self.lower < self.upper).flatten()
        middle = _rows(self.model, left, (self.lower + (self.upper - self.lower) / 2)[None])
        # Nothing is proven of a set with answers such as NaN, nor of a single point, which was bounded.
        if not bool(varies.any()) or not bool(middle.isfinite().all()):
            return Branched(-math.inf, 0, None, is_complete=True)
        if int(varies.sum()) <= _FEW_INPUTS:
            ends = self.lower.flatten()[varies], self.upper.flatten()[varies]
            return split_boxes(*ends, left, partial(self._planes, left, varies), partial(self._check, varies))
        assert isinstance(last.features, Linear)
        functions, every = functions_of(last, *left[:2]), torch.ones_like(varies)
        return branched(last.features, functions, left.groups, partial(self._check, every))

    def _planes(self, goal: Goal, varies: Tensor, lower: Tensor, upper: Tensor) -> Planes:
        """Functions below a goal's rows over boxes of the inputs that vary."""
        box = Box(self._whole(varies, lower), self._whole(varies, upper))
        last = self._program.run_to_last_layer(Linear.of(Interval(*box.ends), box), self._norms)
        features, functions = last.features, functions_of(last, *goal[:2])
        assert isinstance(features, Linear)
        boxes, rows = len(lower), len(goal.bias)
        owner = torch.arange(boxes, device=lower.device).repeat_interleave(rows)
        weight, bias = functions.weight.repeat(boxes, 1), functions.bias.repeat(boxes)
        slopes, constants = pulled_back(features.node, Rows(weight, owner), features.inputs)
        flat, fixed = slopes.flatten(1), self.lower.flatten()[~varies]
        constants = constants + bias + flat[:, ~varies] @ fixed
        return Planes(flat[:, varies].reshape(boxes, rows, -1), constants.reshape(boxes, rows))

    def _check(self, varies: Tensor, points: Tensor) -> Tensor | None:
        """A counter-example among points of the inputs that vary, (points, inputs)."""
        inputs = self._whole(varies, points.flatten(1))
        parts = torch.split(inputs, max(1, _MOST_ENTRIES // max(1, self.lower.numel())))
        rows = torch.cat([_rows(self.model, self.goal, part) for part in parts])
        margins = self.goal.margins(rows).nan_to_num(nan=math.inf)
        nearest = inputs[margins.topk(min(_NUM_NEAR, len(margins)), largest=False).indices]
        box = self.lower, self.upper
        return _descended(self.model, box, self.goal, self.confirm, nearest, _NEAR_STEPS)

    def _whole(self, varies: Tensor, points: Tensor) -> Tensor:
        """Inputs (points, *shape) in the box, of those of them that vary, (points, inputs)."""
        flat = self.lower.flatten().repeat(len(points), 1)
        flat[:, varies] = points
        return flat.reshape(-1, *self.lower.shape).clamp(self.lower, self.upper)

    @cached_property
    def _norms(self) -> GuaranteedNorms:
        return GuaranteedNorms()

    @cached_property
    def _program(self) -> Program:
        return ProgramCache().of(self.model, self.lower[None])
