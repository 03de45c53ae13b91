"""The worst difference of logits over a ball ∩ a box: max w·d, ‖d‖₂ ≤ r, below ≤ d ≤ above.

Stationarity gives d(t) = clip(t w, below, above) for one number t, with ‖d(t)‖ = r unless the whole
corner of the box lies in the ball. Newton's method on t climbs from the left and ends after finitely
many steps. Whatever t it stops at, the dual value

    U(t) = w·d(t) + ‖d(t)‖ (r - ‖d(t)‖) / t

is an upper bound, and the maximum itself at the best t; t -> 0 gives r‖w‖, t -> ∞ the box's bound.
So the value never depends on convergence, and its gradient is that of the Lagrangian with t held.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

_CHUNK = 2**21  # entries of (batch, classes, hidden) at a time
_MOST_STEPS = 100
_LARGEST = 0.48  # power of the largest float that stands for t = ∞, and its inverse for t = 0


def ball_box_gains(
    weight: Tensor,
    labels: Tensor,
    below: Tensor,
    above: Tensor,
    radius: Tensor,
    *,
    num_steps: int | None = None,
) -> Tensor:
    """How much each class can gain on the true one over a ball ∩ a box around 0.

    Args:
        weight: Of the last layer, (classes, hidden).
        labels: True classes (batch,).
        below: Lower ends of the box, (batch, hidden), nowhere positive.
        above: Upper ends, (batch, hidden), nowhere negative.
        radius: Of the ball (batch,), nowhere negative.
        num_steps: Newton steps; until nothing changes where None.

    Returns:
        Tensor (batch, classes): an upper bound on max (w_i - w_y)·d for any number of steps, the
        maximum itself where None. Differentiable once in all floats (envelope theorem).
    """
    gains: Tensor = _Gains.apply(  # type: ignore[no-untyped-call]
        weight, labels, below, above, radius, num_steps
    )
    return gains


def box_gains(weight: Tensor, labels: Tensor, halfwidth: Tensor) -> Tensor:
    """How much each class can gain on the true one over a box around 0.

    Args:
        weight: Of the last layer, (classes, hidden).
        labels: True classes (batch,).
        halfwidth: Of the box, (batch, hidden).

    Returns:
        Tensor (batch, classes): max (w_i - w_y)·d over |d| ≤ halfwidth.
    """
    size = max(1, _CHUNK // weight.numel())
    parts = zip(torch.split(labels, size), torch.split(halfwidth, size), strict=True)
    gaps = ((weight[None] - weight[rows, None]).abs() @ widths[..., None] for rows, widths in parts)
    return torch.cat([gap.squeeze(-1) for gap in gaps])


def most_over_ball_and_box(
    direction: Tensor, below: Tensor, above: Tensor, radius: Tensor, *, num_steps: int | None = None
) -> Tensor:
    """Max w·d, ‖d‖₂ ≤ r, below ≤ d ≤ above.

    Args:
        direction: w, (rows, n).
        below: Tensor (rows, n), nowhere positive.
        above: Tensor (rows, n), nowhere negative.
        radius: r, (rows,).
        num_steps: Newton steps, after any number of which the value is an upper bound; until nothing
            changes where None.

    Returns:
        Tensor (rows,), with gradient (envelope theorem).
    """
    chunk = _Chunk(direction, below, above, radius)
    with torch.no_grad():
        scale = _multiplier(chunk, num_steps)
    return _value(chunk, scale)


class _Chunk(NamedTuple):
    """Some examples' directions w (batch, classes, hidden), boxes and radii (batch, 1, hidden)."""

    direction: Tensor
    below: Tensor
    above: Tensor
    radius: Tensor

    def clipped(self, scale: Tensor) -> Tensor:
        return torch.clamp(self.direction * scale[..., None], self.below, self.above)


def _chunks(
    weight: Tensor, labels: Tensor, below: Tensor, above: Tensor, radius: Tensor
) -> Iterator[tuple[slice, _Chunk]]:
    size = max(1, _CHUNK // weight.numel())
    for start in range(0, max(1, len(labels)), size):  # an empty batch is one chunk too
        rows = slice(start, start + size)
        direction = weight[None] - weight[labels[rows], None]
        yield rows, _Chunk(direction, below[rows, None], above[rows, None], radius[rows, None])


def _multiplier(chunk: _Chunk, num_steps: int | None) -> Tensor:
    """The t of the maximum, approached from the left, (batch, classes)."""
    direction = chunk.direction
    corner = torch.where(direction > 0, chunk.above, -chunk.below).abs()
    size = direction.abs()
    squares = size.square()
    limit = chunk.radius.square()
    scale = _scale(limit, squares.sum(-1))
    for _ in range(_MOST_STEPS if num_steps is None else num_steps):
        is_free = size * scale[..., None] < corner
        free = torch.where(is_free, squares, 0).sum(-1)
        fixed = torch.where(is_free, 0, corner).square().sum(-1)
        former, scale = scale, torch.maximum(scale, _scale(limit - fixed, free))
        if num_steps is None and bool((scale == former).all()):
            break
    return scale


def _scale(remaining: Tensor, squares: Tensor) -> Tensor:
    info = torch.finfo(squares.dtype)
    scale = (remaining.clamp_min(0) / squares.clamp_min(info.tiny)).sqrt()
    return scale.clamp(info.max**-_LARGEST, info.max**_LARGEST)


def _value(chunk: _Chunk, scale: Tensor) -> Tensor:
    step = chunk.clipped(scale)
    length: Tensor = torch.linalg.vector_norm(step, dim=-1)
    along = (chunk.direction * step).sum(-1)
    dual = along + length * (chunk.radius - length) / scale
    ball = chunk.radius * torch.linalg.vector_norm(chunk.direction, dim=-1)
    box = torch.maximum(chunk.direction * chunk.below, chunk.direction * chunk.above).sum(-1)
    # The maximum is above neither, and 0 is a member; that mends rounding and a t still on its way.
    return torch.minimum(dual, torch.minimum(ball, box)).clamp_min(0)


class _Gains(torch.autograd.Function):
    @staticmethod
    @override
    def forward(
        ctx: Any,
        weight: Tensor,
        labels: Tensor,
        below: Tensor,
        above: Tensor,
        radius: Tensor,
        num_steps: int | None,
    ) -> Tensor:
        gains, scales = [], []
        for _, chunk in _chunks(weight, labels, below, above, radius):
            scales.append(_multiplier(chunk, num_steps))
            gains.append(_value(chunk, scales[-1]))
        ctx.save_for_backward(weight, labels, below, above, radius, torch.cat(scales))
        return torch.cat(gains)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        weight, labels, below, above, radius, scales = ctx.saved_tensors
        to_weight = torch.zeros_like(weight)
        to_below, to_above, to_radius = [], [], []
        for rows, chunk in _chunks(weight, labels, below, above, radius):
            scale, factor = scales[rows], upstream[rows, :, None]
            step = chunk.clipped(scale)
            moved = factor * step
            to_weight += moved.sum(0)
            to_weight.index_add_(0, labels[rows], -moved.sum(1))
            pressure = chunk.direction - step / scale[..., None]  # on the walls; 0 between them
            to_above.append((factor * pressure.clamp_min(0)).sum(1))
            to_below.append((factor * pressure.clamp_max(0)).sum(1))
            length: Tensor = torch.linalg.vector_norm(step, dim=-1)
            to_radius.append((upstream[rows] * length / scale).sum(1))
        return to_weight, None, torch.cat(to_below), torch.cat(to_above), torch.cat(to_radius), None
