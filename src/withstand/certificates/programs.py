"""The ends of branch and bound: where no function bends any more, what is left is a linear program.

An ascent comes near its solution slowly. A solver gives it at once, but proves nothing in floating point: so
its dual values are taken as the multipliers of bounds that are evaluated as all others are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from withstand.core import norms
from withstand.core.deadlines import time_left
from withstand.domains.linear.backward import Pulls, pulled_back
from withstand.domains.linear.linear_inputs import Interval
from withstand.domains.linear.nodes import Node, Rows
from withstand.domains.linear.slopes import Search, Tuned

_PRICE: Final = 1e4
"""Of leaving the subproblem, in sizes of the functions: it makes a program of one that is empty."""


class Solution(NamedTuple):
    """What a linear program gives.

    Attributes:
        search: The same one, with the multipliers and shares of the program's dual.
        point: Where the program is least, (1, *shape of an input).
    """

    search: Search
    point: Tensor


class _Affine(NamedTuple):
    """Functions of the inputs: slopes (functions, inputs), and constants (functions,)."""

    slopes: NDArray[np.float64]
    constants: NDArray[np.float64]


def solved(search: Search, cuts: Sequence[Tensor]) -> Solution | None:
    """Solves the program of one subproblem.

    Args:
        search: Of one row, over a box of inputs.
        cuts: Which coordinates before each bent node were cut, integers (cuts,).

    Returns:
        None where the inputs are no box, something bends still, or the solver finds nothing in time.
    """
    from scipy.optimize import linprog

    inputs = search.record.inputs
    plain = replace(search, multipliers=[torch.zeros_like(part) for part in search.multipliers])
    lines = plain.tuned(search.record, torch.float64)
    if not isinstance(inputs, Interval) or not all(map(_is_line, lines)):
        return None
    members = _members(search)
    goals, walls = _goals(search, lines, members), _walls(search, lines, cuts)
    lowest, highest = (
        np.concatenate([norms.flat(end)[0, at].cpu().numpy() for end, at in zip(side, cuts, strict=True)])
        for side in zip(*search.ends, strict=True)
    )
    num_goals, num_walls = len(goals.constants), len(walls.constants)
    # The unknowns are the inputs, the largest of the functions, and how far walls are crossed.
    matrix = np.zeros((num_goals + 2 * num_walls, goals.slopes.shape[1] + 2))
    matrix[:, :-2] = np.concatenate([goals.slopes, walls.slopes, -walls.slopes])
    matrix[:num_goals, -2], matrix[num_goals:, -1] = -1, -1
    ends = np.concatenate([-goals.constants, highest - walls.constants, walls.constants - lowest])
    cost = np.zeros(matrix.shape[1])
    cost[-2:] = 1, _PRICE * (1 + np.abs(goals.slopes).max(initial=0.0))
    box = [norms.flat(end)[0].cpu().numpy() for end in (inputs.lower, inputs.upper)]
    bounds = [*zip(*box, strict=True), (None, None), (0, None)]
    if not all(np.isfinite(part).all() for part in (matrix, ends, *box)):
        return None
    result = linprog(cost, A_ub=matrix, b_ub=ends, bounds=bounds, options={"time_limit": time_left()})
    if result.status != 0 or result.x is None:
        return None
    duals = torch.from_numpy(-np.asarray(result.ineqlin.marginals)).to(inputs.lower)
    of_goals, below, above = torch.split(duals, [num_goals, num_walls, num_walls])
    point = torch.from_numpy(result.x[:-2]).to(inputs.lower).reshape(inputs.lower.shape)
    return Solution(_with_duals(search, cuts, members, of_goals, above - below), point)


def _is_line(part: Tuned) -> bool:
    lines = part.lines
    lower = torch.zeros_like(lines.upper_offset) if lines.lower_offset is None else lines.lower_offset
    return lines.lower_slope.equal(lines.upper_slope) and lower.equal(lines.upper_offset)


def _members(search: Search) -> Tensor:
    """Which of the functions are in the row's combination, integers."""
    assert search.functions.shares is not None
    return search.functions.shares[0].nonzero()[:, 0]


def _affine(search: Search, lines: Sequence[Tuned], node: Node, values: Tensor) -> _Affine:
    """Functions of a node's value, (functions, *shape), as ones of the inputs."""
    own: dict[Node, Pulls] = dict(zip(search.record.bent, lines, strict=True))
    rows = Rows(values, torch.zeros(len(values), dtype=torch.int64, device=values.device))
    back, constants = pulled_back(node, rows, search.record.inputs, own)
    return _Affine(norms.flat(back).cpu().numpy(), constants.cpu().numpy())


def _goals(search: Search, lines: Sequence[Tuned], members: Tensor) -> _Affine:
    weight, bias, _ = search.functions
    slopes, constants = _affine(search, lines, search.record.node, weight[members])
    return _Affine(slopes, constants + bias[members].cpu().numpy())


def _walls(search: Search, lines: Sequence[Tuned], cuts: Sequence[Tensor]) -> _Affine:
    """The values that were cut."""
    walls = []
    for node, places in zip(search.record.bent, cuts, strict=True):
        parent = node.parents[0]
        values = torch.zeros(len(places), torch.Size(parent.shape).numel(), dtype=torch.float64).to(
            places.device
        )
        values[torch.arange(len(places)), places] = 1
        walls.append(_affine(search, lines, parent, values.reshape(-1, *parent.shape)))
    return _Affine(*(np.concatenate(parts) for parts in zip(*walls, strict=True)))


def _with_duals(
    search: Search, cuts: Sequence[Tensor], members: Tensor, of_goals: Tensor, of_walls: Tensor
) -> Search:
    shares = of_goals.new_zeros(1, len(search.functions.bias))
    shares[0, members] = of_goals.clamp_min(0)
    multipliers = []
    for part, places, duals in zip(
        search.multipliers, cuts, torch.split(of_walls, [len(places) for places in cuts]), strict=True
    ):
        flat = torch.zeros_like(norms.flat(part), dtype=torch.float64)
        flat[0, places] = duals
        multipliers.append(flat.reshape(part.shape))
    return replace(search, functions=search.functions._replace(shares=shares), multipliers=multipliers)
