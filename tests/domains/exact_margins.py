"""What tiny ReLU nets really do over a box: the least of a linear goal, over all activation patterns.

Within a pattern the net is affine, so that one linear programme gives the least there, and where it is. For
nets of which a box leaves ten or so neurons undecided.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from tests.domains.dense_crown import Affine, Leaky, layers_of


class Exact(NamedTuple):
    """The least value of a goal, and an input of the box that has it.

    Attributes:
        value: Of the network itself at the minimiser, so that it is surely attained; the least but for 1e-6.
        minimiser: Tensor (shape of an input).
    """

    value: float
    minimiser: Tensor


class Piece(NamedTuple):
    """Where the net is affine: outputs matrix x + bias wherever normals x ≤ offsets, within the box."""

    matrix: Tensor
    bias: Tensor
    normals: Tensor
    offsets: Tensor


def exact_minimum(
    model: nn.Module, lower: Tensor, upper: Tensor, weight: Tensor, bias: Tensor, groups: Tensor | None = None
) -> Exact:
    """The least over lower ≤ x ≤ upper and the groups of the group's largest weight[r] · f(x) + bias[r].

    Args:
        model: f, sequential, of affine layers, ReLU and LeakyReLU, in float64 and eval mode.
        lower: Of the box, the shape of an input.
        upper: As that.
        weight: Tensor (rows, outputs), float64.
        bias: Tensor (rows,).
        groups: Integers (rows,): which group each row is of. Each row its own where None.
    """
    groups = torch.arange(len(bias)) if groups is None else groups
    ends = lower.flatten(), upper.flatten()
    best: Exact | None = None
    for piece in _pieces(layers_of(model, tuple(lower.shape)), *ends):
        for group in set(groups.tolist()):
            rows = groups == group
            point = _least_of(piece, ends, weight[rows], bias[rows])
            if point is None:
                continue
            point = point.clamp(*ends).reshape(lower.shape)
            value = goal_value(model, point, weight, bias, groups)
            if best is None or value < best.value:
                best = Exact(value, point)
    assert best is not None
    return best


def exact_margin(model: nn.Module, lower: Tensor, upper: Tensor, label: int, classes: int) -> Exact:
    """The least of the true logit minus the largest other one, over a box; as ``exact_minimum``."""
    others = [other for other in range(classes) if other != label]
    unit = torch.eye(classes, dtype=torch.float64)
    return exact_minimum(model, lower, upper, unit[label] - unit[others], torch.zeros(classes - 1).double())


def goal_value(model: nn.Module, point: Tensor, weight: Tensor, bias: Tensor, groups: Tensor) -> float:
    """Over the groups the least of the largest weight[r] · f(point) + bias[r] of each group."""
    with torch.no_grad():
        values = weight @ model(point[None]).flatten() + bias
    return min(float(values[groups == group].max()) for group in set(groups.tolist()))


def _pieces(layers: Sequence[Affine | Leaky], lower: Tensor, upper: Tensor) -> Iterator[Piece]:
    size = len(lower)
    start = Piece(
        torch.eye(size).double(), torch.zeros(size).double(), torch.zeros(0, size).double(), torch.zeros(0)
    )
    yield from _split(layers, start, lower, upper)


def _split(layers: Sequence[Affine | Leaky], piece: Piece, lower: Tensor, upper: Tensor) -> Iterator[Piece]:
    """Every piece of the layers that are left; some are of no input."""
    if not layers:
        yield piece
        return
    layer, left = layers[0], layers[1:]
    if isinstance(layer, Affine):
        moved = piece._replace(matrix=layer.matrix @ piece.matrix, bias=layer(piece.bias))
        yield from _split(left, moved, lower, upper)
        return
    middle = piece.matrix @ (lower + upper) / 2 + piece.bias
    reach = piece.matrix.abs() @ (upper - lower) / 2
    choices = [
        (0, 1) if abs(center) < half else (int(center > 0),)
        for center, half in zip(middle.tolist(), reach.tolist(), strict=True)
    ]
    is_open = middle.abs() < reach
    for pattern in product(*choices):
        is_on = torch.tensor(pattern, dtype=torch.bool)
        sign = torch.where(is_on, -1.0, 1.0).double()[is_open]  # sign · (matrix x + bias) ≤ 0
        scale = torch.where(is_on, 1.0, layer.slope).double()
        yield from _split(
            left,
            Piece(
                scale[:, None] * piece.matrix,
                scale * piece.bias,
                torch.cat([piece.normals, sign[:, None] * piece.matrix[is_open]]),
                torch.cat([piece.offsets, -sign * piece.bias[is_open]]),
            ),
            lower,
            upper,
        )


def _least_of(piece: Piece, ends: tuple[Tensor, Tensor], weight: Tensor, bias: Tensor) -> Tensor | None:
    """The x of the least t with t ≥ each row, by a linear programme over (x, t); None where there is no x."""
    rows, offsets = weight @ piece.matrix, weight @ piece.bias + bias
    normals = torch.cat([torch.cat([rows, piece.normals]), torch.zeros(len(rows) + len(piece.normals), 1)], 1)
    normals[: len(rows), -1] = -1
    size = len(ends[0])
    result = linprog(
        [0.0] * size + [1.0],
        A_ub=normals.numpy(),
        b_ub=torch.cat([-offsets, piece.offsets]).numpy(),
        bounds=[*zip(ends[0].tolist(), ends[1].tolist(), strict=True), (None, None)],
        method="highs",
    )
    assert result.status in (0, 2), result.message  # solved, or without a solution
    return None if result.x is None else torch.from_numpy(result.x[:size])
