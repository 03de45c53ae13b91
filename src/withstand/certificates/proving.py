"""Proves a goal of a network over a box of inputs, or finds a counter-example.

A short attack comes first: where it succeeds there is nothing to prove. Then bounds. What is proven, and what
of rounding is not accounted for, is as of ``certificates.certify``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from withstand.certificates.goals import Goal, Proof
from withstand.core.deadlines import OutOfTime, require_time, until
from withstand.core.numerics import numerics
from withstand.domains import Box, LastLayer, ProgramCache, Region
from withstand.domains.linear.linear import Linear
from withstand.domains.linear.linear_inputs import Interval
from withstand.operators import GuaranteedNorms

_ROUNDING = 1e-12  # of the sizes of what is added up in a row: a margin below it is rounding
_NUM_STARTS = 32
_NUM_ATTACKS = 5  # each from other starts
_NUM_STEPS = 60
_MOST_ENTRIES = 2**22  # of all starts together
_FIRST_STEP, _LAST_STEP = 0.5, 0.005  # of the half-width of the box

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
    bound = -math.inf
    with torch.no_grad(), numerics("fp32"), until(deadline):
        try:
            point = attack(model, lower, upper, goal, confirm)
            if point is not None:
                return Proof("refuted", -math.inf, point)
            bound = _bound(model, lower, upper, goal)
            for seed in range(1, _NUM_ATTACKS if bound <= 0 else 0):
                point = attack(model, lower, upper, goal, confirm, seed=seed)
                if point is not None:
                    return Proof("refuted", bound, point)
        except OutOfTime:
            return Proof("timeout", bound)
    return Proof("proven" if bound > 0 else "unknown", bound)


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
        What ``confirm`` made of the first point that it took, (*shape); None where there was none.
    """
    if not goal.num_groups:
        return None
    half = (upper - lower) / 2
    points = _starts(lower, upper, seed)
    order = goal.group_margins(_rows(model, goal, points[:1]))[0].argsort()
    target = order.repeat(-(-len(points) // len(order)))[: len(points), None]
    for size in [*torch.logspace(math.log10(_FIRST_STEP), math.log10(_LAST_STEP), _NUM_STEPS).tolist(), 0.0]:
        require_time()
        with torch.enable_grad():
            points.requires_grad_()
            rows = _rows(model, goal, points)
            broken = rows.new_zeros(len(rows), goal.num_groups)
            broken = broken.index_add(1, goal.groups, rows.clamp_min(0)) + goal.group_margins(rows)
            (slope,) = torch.autograd.grad(broken.gather(1, target).sum() + 0 * points.sum(), points)
        points, margins = points.detach(), goal.margins(rows.detach()).nan_to_num(nan=math.inf)
        if float(margins.min()) <= 0 and (point := confirm(points[margins.argmin()])) is not None:
            return point
        points = (points - size * half * slope.sign()).clamp(lower, upper)
    return None


def _starts(lower: Tensor, upper: Tensor, seed: int) -> Tensor:
    """Random points, (starts, *shape); of seed 0 the middle of the box comes first."""
    count = max(2, min(_NUM_STARTS, _MOST_ENTRIES // max(1, lower.numel())))
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(count, *lower.shape, generator=generator, dtype=lower.dtype).to(lower.device)
    places[0] = places[0] if seed else 0.5
    return (lower + (upper - lower) * places).clamp(lower, upper)


def _rows(model: nn.Module, goal: Goal, points: Tensor) -> Tensor:
    return goal.rows(model(points))


def _bound(model: nn.Module, lower: Tensor, upper: Tensor, goal: Goal) -> float:
    """The best lower bound of the goal's margin over a box that the domains give, the quick one first."""
    if not goal.num_groups:
        return math.inf
    rows, bound = torch.full_like(goal.bias, -math.inf), -math.inf
    box = Box(lower[None], upper[None])
    program, norms = ProgramCache().of(model, box.center), GuaranteedNorms()
    sets: list[Region] = [box, Linear.of(Interval(*box.ends), box)]
    for value in sets:
        rows = torch.maximum(rows, _row_bounds(program.run_to_last_layer(value, norms), goal))
        bound = float(goal.margins(rows[None])[0])
        if bound > 0:
            break
    return bound


def _row_bounds(last: LastLayer, goal: Goal) -> Tensor:
    """Sound lower bounds of the rows (rows,) over a set (batch 1); minus infinity where there is none."""
    weight = goal.weight @ last.weight
    bias = goal.bias if last.bias is None else goal.weight @ last.bias + goal.bias
    # Row i falls by as much as class i + 1, whose weights are its negated, gains on class 0, which has none.
    label = torch.zeros(1, dtype=torch.int64, device=weight.device)
    fall = last.features.worst_differences(torch.cat([torch.zeros_like(weight[:1]), -weight]), label)[0, 1:]
    center = last.features.center[0]
    bounds = weight @ center + bias - fall - _ROUNDING * (weight.abs() @ center.abs() + bias.abs())
    return bounds.where(bounds.isfinite(), -math.inf)
