"""Products of two values: between two parallel planes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
    """B(x, y) of two values x = p ± r and y = q ± s: p y + x q - p q, give or take r s, as (x - p)(y - q) is.

    On either side this plane is halfway between the two of McCormick (Mathematical Programming 1976), and
    leaves as much volume as each of them. Networks with gates, attention and layer norm were bounded no less
    closely by it than by either, or by the better one at the center; and both sides have the same slopes.

    Args:
        bilinear: B.
        first: x.
        second: y.
    """

    bilinear: Bilinear
    first: Factor
    second: Factor

    @override
    def pull_back(self, rows: Rows) -> tuple[Sequence[Tensor], Tensor]:
        values, bilinear = rows.values, self.bilinear
        (p, r), (q, s) = ((part[rows.owner] for part in factor) for factor in (self.first, self.second))
        to_first = transposed(lambda x: bilinear(x, q), values, self.parents[0].shape)
        to_second = transposed(lambda y: bilinear(p, y), values, self.parents[1].shape)
        constant = values * bilinear(p, q) + values.abs() * bilinear(r, s)
        return [to_first, to_second], -norms.flat(constant).sum(1)
