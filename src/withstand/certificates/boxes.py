"""Branch and bound over the inputs, where they have few dimensions: smaller boxes, each bounded anew.

Of a box only that part is kept where the functions below a group's rows leave room for a counter-example.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from withstand.certificates.goals import Goal
from withstand.certificates.splits import Branched, Check, Store
from withstand.core.deadlines import OutOfTime, is_time_up

_FIRST_BATCH, _LARGEST_BATCH = 16, 2048
_SECONDS = 0.3  # that a batch may take
_MEMORY = 2**30
_ABOVE_0 = sys.float_info.min  # all that is known of what was cut off
_ROUNDING = 1e-10  # of what is added up, by which less is cut off


class Planes(NamedTuple):
    """Linear functions of the inputs that are nowhere above the rows of a goal over some boxes.

    Attributes:
        slopes: Tensor (boxes, rows, inputs).
        constants: Tensor (boxes, rows).
    """

    slopes: Tensor
    constants: Tensor


class _Boxes(NamedTuple):
    """Boxes, and how far the proof is.

    Attributes:
        bound: Of the margins of the groups that are not proven, (boxes,).
        lower: Tensor (boxes, inputs).
        upper: Tensor (boxes, inputs).
        is_open: Which groups are not proven, bools (boxes, groups).
        split: Along which input to split next, integers (boxes,).
    """

    bound: Tensor
    lower: Tensor
    upper: Tensor
    is_open: Tensor
    split: Tensor


def split_boxes(
    lower: Tensor, upper: Tensor, goal: Goal, planes: Callable[[Tensor, Tensor], Planes], check: Check
) -> Branched:
    """Tries to prove a goal on a box.

    Args:
        lower: Of the box, (inputs,) in float64.
        upper: As that.
        goal: What is to be proven.
        planes: Of boxes (boxes, inputs).
        check: Decides of points (points, inputs) which is a counter-example.

    Returns:
        What came of it until the time was up; sound then too.
    """
    is_open = torch.ones(1, goal.num_groups, dtype=torch.bool, device=lower.device)
    whole = _Boxes(
        lower.new_full((1,), -math.inf), lower[None], upper[None], is_open, torch.zeros(1, dtype=torch.int64)
    )
    store, size, done, num_splits, counterexample = Store(whole), _FIRST_BATCH, math.inf, -1, None
    bound = -math.inf
    while len(store) and counterexample is None and not is_time_up() and store.num_bytes < _MEMORY:
        bound = min(done, float(store.bounds.min()))
        begun = time.monotonic()
        batch = store.take(size // 2)
        halves = batch if num_splits < 0 else _halves(batch)
        num_splits += len(batch.bound)
        try:
            left, proven, counterexample = _bounded(halves, goal, planes, check)
        except OutOfTime:
            return Branched(bound, num_splits, None, is_complete=False)
        done = min(done, proven, _ABOVE_0)
        store.put(left)
        took = time.monotonic() - begun
        size = (
            min(_LARGEST_BATCH, size * 2)
            if took < _SECONDS / 2
            else max(2, size // 2)
            if took > _SECONDS
            else size
        )
    bounds = store.bounds
    bound = max(bound, min(done, float(bounds.min()) if len(bounds) else math.inf))
    return Branched(bound, num_splits, counterexample, is_complete=not len(store))


def _bounded(
    boxes: _Boxes, goal: Goal, planes: Callable[[Tensor, Tensor], Planes], check: Check
) -> tuple[_Boxes, float, Tensor | None]:
    """The boxes that are not proven, cut down; the least bound of what is; a counter-example or None."""
    lower, upper = boxes.lower, boxes.upper
    slopes, constants = planes(lower, upper)
    parts = torch.minimum(slopes * lower[:, None], slopes * upper[:, None])
    rows = (parts.sum(2) + constants).nan_to_num(-math.inf, -math.inf, -math.inf)
    margins = torch.maximum(goal.group_margins(rows), boxes.bound[:, None])
    is_open = boxes.is_open & (margins <= 0)
    proven = margins[boxes.is_open & ~is_open]
    points = torch.where(slopes > 0, lower[:, None], upper[:, None])[
        _best(goal, rows) & is_open[:, goal.groups]
    ]
    counterexample = check(points) if len(points) else None
    ends = _room(boxes, goal, slopes, rows, parts, is_open)
    stays = is_open.any(1) & (ends[0] <= ends[1]).all(1)
    fall = (slopes.abs() * is_open[:, goal.groups, None]).nan_to_num(0.0, 0.0).amax(1) * (ends[1] - ends[0])
    split = torch.where(fall.amax(1) > 0, fall.argmax(1), (ends[1] - ends[0]).argmax(1))
    left = _Boxes(margins.where(is_open, math.inf).amin(1), *ends, is_open, split)
    least = float(proven.min()) if len(proven) else math.inf
    return _Boxes(*(part[stays] for part in left)), least, counterexample


def _best(goal: Goal, rows: Tensor) -> Tensor:
    """Which row of each group has the highest bound, bools (boxes, rows)."""
    return rows == goal.group_margins(rows)[:, goal.groups]


def _room(
    boxes: _Boxes, goal: Goal, slopes: Tensor, rows: Tensor, parts: Tensor, is_open: Tensor
) -> tuple[Tensor, Tensor]:
    """The smallest box around where, for some open group, no function below a row is above 0.

    Args:
        boxes: The boxes.
        goal: Whose groups these are.
        slopes: Of the functions, (boxes, rows, inputs).
        rows: Their least values (boxes, rows).
        parts: What each input adds to these, (boxes, rows, inputs).
        is_open: Bools (boxes, groups).
    """
    lower, upper = boxes.lower, boxes.upper
    # An input's own part is at most what the least of all others leaves below 0.
    slack = _ROUNDING * (parts.abs().sum(2) + rows.abs())
    ends = (parts + (slack - rows)[..., None]) / slopes
    highs = ends.where((slopes > 0) & ends.isfinite(), math.inf)
    lows = ends.where((slopes < 0) & ends.isfinite(), -math.inf)
    index = goal.groups[None, :, None].expand_as(highs)
    shape = len(highs), goal.num_groups, highs.shape[2]
    high = highs.new_full(shape, math.inf).scatter_reduce(1, index, highs, "amin")
    low = lows.new_full(shape, -math.inf).scatter_reduce(1, index, lows, "amax")
    low, high = torch.maximum(low, lower[:, None]), torch.minimum(high, upper[:, None])
    has_room = (is_open & (low <= high).all(2))[..., None]
    return low.where(has_room, math.inf).amin(1), high.where(has_room, -math.inf).amax(1)


def _halves(boxes: _Boxes) -> _Boxes:
    """Both halves of each box, cut in the middle of where the planes fell most when it was bounded."""
    rows = torch.arange(len(boxes.bound), device=boxes.bound.device)
    widest = boxes.split.long()
    middle = ((boxes.lower + boxes.upper) / 2)[rows, widest]
    first = boxes._replace(upper=boxes.upper.index_put((rows, widest), middle))
    second = boxes._replace(lower=boxes.lower.index_put((rows, widest), middle))
    return _Boxes(*(torch.cat(pair) for pair in zip(first, second, strict=True)))
