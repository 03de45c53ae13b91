"""Bounds of many boxes at once: most of the boxes that a property names are proven in one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from withstand.certificates.goals import ROUNDING, Goal, functions_of, least_rows
from withstand.core.deadlines import OutOfTime, until
from withstand.core.numerics import numerics
from withstand.domains import Box, ProgramCache
from withstand.domains.linear.linear import Linear
from withstand.domains.linear.linear_inputs import Interval
from withstand.operators import GuaranteedNorms

_AT_ONCE = 2**16  # input values
_MOST_ROWS = 256  # different functions of the outputs; of more, each box is better bounded for its own


def bounds_of_many(
    model: nn.Module, lower: Tensor, upper: Tensor, goals: Sequence[Goal], *, deadline: float
) -> list[float]:
    """Sound lower bounds of the margins of goals over boxes, by linear bounds of each.

    Args:
        model: As ``certificates.proving.prove`` takes it.
        lower: Float64 tensor (boxes, *shape): the least values.
        upper: The largest, nowhere below.
        goals: One a box.
        deadline: When to stop, in seconds of ``time.monotonic``.

    Returns:
        A bound a box; minus infinity where there is none, as of those that time did not suffice for.
    """
    bounds = [-math.inf] * len(goals)
    weight, places = torch.unique(torch.cat([goal.weight for goal in goals]), dim=0, return_inverse=True)
    if len(weight) > _MOST_ROWS:
        return bounds
    rows_of = places.split([len(goal.bias) for goal in goals])
    size = max(1, _AT_ONCE // max(1, lower[:1].numel()))
    with torch.no_grad(), numerics("fp32"), until(deadline):
        try:
            program, norms = ProgramCache().of(model, lower[:1]), GuaranteedNorms()
            for start in range(0, len(goals), size):
                box = Box(lower[start : start + size], upper[start : start + size])
                last = program.run_to_last_layer(Linear.of(Interval(*box.ends), box), norms)
                functions = functions_of(last, weight, torch.zeros_like(weight[:, 0]))
                for index, least in enumerate(least_rows(last, functions), start):
                    goal = goals[index]
                    own = least[rows_of[index]] + goal.bias - ROUNDING * goal.bias.abs()
                    bounds[index] = float(goal.margins(own[None])[0])
        except OutOfTime:
            pass
    return bounds
