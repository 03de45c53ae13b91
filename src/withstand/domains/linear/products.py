"""Products of two values: between planes (McCormick, Math. Programming 1976)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from withstand.core import norms
from withstand.domains.linear.nodes import Ends, Node, Rows
from withstand.graph.primitives import Bilinear
from withstand.operators.linear_operators import transposed


class Factor(NamedTuple):
    """One of two values that are multiplied: midpoint ± reach, (batch, …) each."""

    midpoint: Tensor
    reach: Tensor

    @classmethod
    def of(cls, ends: Ends) -> Factor:
        """What lies between two ends."""
        lower, upper = ends
        return cls((lower + upper) / 2, (upper - lower) / 2)


@dataclass(frozen=True, eq=False)
class Product(Node):
    """B(x, y) of two values x = p ± r and y = q ± s, of which two planes are known on either side.

    Each x_i y_j is nowhere below p_i y_j + x_i q_j - p_i q_j - r_i s_j ± ((x_i - p_i) s_j + r_i (y_j - q_j)), and
    nowhere above p_i y_j + x_i q_j - p_i q_j + r_i s_j ± ((x_i - p_i) s_j - r_i (y_j - q_j)). With either sign
    these are McCormick's planes, which leave the same volume; so does what is between them, without the last term.

    Args:
        bilinear: B.
        first: x.
        second: y.
        tilts: What takes the place of the signs, from -1 to 1: of the planes below and of those above; tensors
            (batch, *shape).
    """

    bilinear: Bilinear
    first: Factor
    second: Factor
    tilts: tuple[Tensor, Tensor]

    @override
    def pull_back(self, rows: Rows) -> tuple[Sequence[Tensor], Tensor]:
        (p, r), (q, s) = ((part[rows.owner] for part in factor) for factor in (self.first, self.second))
        above, below = rows.values.clamp_min(0), rows.values.clamp_max(0)
        leaning_below, leaning_above = (
            part * tilt[rows.owner] for part, tilt in zip((above, below), self.tilts, strict=True)
        )
        both, apart = leaning_below + leaning_above, leaning_below - leaning_above
        to_first = self._to_first(rows.values, q) + self._to_first(both, s)
        to_second = self._to_second(rows.values, p) + self._to_second(apart, r)
        # The planes are linear in x - p and y - q around p q ± r s.
        spread = norms.flat(rows.values.abs() * self.bilinear(r, s)).sum(1)
        offset = norms.flat(to_first * p).sum(1) + norms.flat(to_second * q).sum(1)
        return [to_first, to_second], norms.flat(rows.values * self.bilinear(p, q)).sum(1) - spread - offset

    def _to_first(self, rows: Tensor, second: Tensor) -> Tensor:
        shape = self.parents[0].shape
        return transposed(lambda x: self.bilinear(x, second), rows, shape)

    def _to_second(self, rows: Tensor, first: Tensor) -> Tensor:
        shape = self.parents[1].shape
        return transposed(lambda y: self.bilinear(first, y), rows, shape)


def better_at(
    point: tuple[Tensor, Tensor], bilinear: Bilinear, first: Factor, second: Factor
) -> tuple[Tensor, Tensor]:
    """The tilts by which each output's planes are closest at a point.

    Args:
        point: A value of x and one of y.
        bilinear: B.
        first: x.
        second: y.

    Returns:
        Those below and those above.
    """
    x, y = point
    by_first = bilinear(x - first.midpoint, second.reach)
    by_second = bilinear(first.reach, y - second.midpoint)
    return torch.sign(by_first + by_second), -torch.sign(by_first - by_second)
