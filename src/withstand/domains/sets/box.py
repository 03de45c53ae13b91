"""The interval domain: IBP (Gowal et al., "On the effectiveness of interval bound propagation")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self, final

import torch
from torch import Tensor
from typing_extensions import override

from withstand.domains.sets.worst_case import box_gains
from withstand.graph.bilinear import Multiplication
from withstand.graph.domain import NormOf, Region
from withstand.graph.powers import SQUARE
from withstand.graph.primitives import Bilinear, Coupled, Monotone, Unimodal
from withstand.operators import LinearOperator


@final
class Box(Region):
    """Every tensor between ``lower`` and ``upper``, coordinate by coordinate.

    Linear maps want midpoint and half-width, monotone functions the two ends; each pair is made
    from the other when it is first asked for.

    Args:
        lower: Tensor (batch, …).
        upper: Tensor of the same shape, nowhere below.
    """

    def __init__(self, lower: Tensor, upper: Tensor) -> None:
        self._ends: tuple[Tensor, Tensor] | None = (lower, upper)
        self._around: tuple[Tensor, Tensor] | None = None

    @classmethod
    def around(cls, midpoint: Tensor, halfwidth: Tensor) -> Self:
        """The box of a midpoint and a half-width.

        Args:
            midpoint: Tensor (batch, …).
            halfwidth: Broadcasts to it; (1, …) where it is the same for all examples, which saves
                linear maps the work. Nowhere negative.
        """
        box = cls.__new__(cls)
        box._ends, box._around = None, (midpoint, halfwidth)
        return box

    @property
    @override
    def ends(self) -> tuple[Tensor, Tensor]:
        if self._ends is None:
            midpoint, halfwidth = self.parts
            self._ends = midpoint - halfwidth, midpoint + halfwidth
        return self._ends

    @property
    def lower(self) -> Tensor:
        """The smallest value of each coordinate, (batch, …)."""
        return self.ends[0]

    @property
    def upper(self) -> Tensor:
        """The largest value of each coordinate, (batch, …)."""
        return self.ends[1]

    @property
    def parts(self) -> tuple[Tensor, Tensor]:
        """Midpoint (batch, …), and half-width, which broadcasts to it."""
        if self._around is None:
            lower, upper = self.ends
            midpoint = (lower + upper) / 2
            self._around = midpoint, (upper - lower) / 2
        return self._around

    @property
    @override
    def center(self) -> Tensor:
        return self.parts[0]

    @override
    def affine(self, operator: LinearOperator, bias: Tensor | None, norm: NormOf) -> Self:
        midpoint, halfwidth = self.parts
        image = operator.apply(midpoint)
        reach = operator.entrywise(torch.abs).apply(halfwidth)
        return self.around(image if bias is None else image + bias, reach)

    @override
    def monotone(self, function: Monotone) -> Self:
        lower, upper = function(self.lower), function(self.upper)
        if function.slack:
            lower, upper = lower - function.slack, upper + function.slack
        return type(self)(lower, upper)

    @override
    def unimodal(self, function: Unimodal) -> Self:
        lower, upper = self.ends
        at_lower, at_upper = function.function(lower), function.function(upper)
        holds_bottom = (lower < function.position) & (upper > function.position)
        least = torch.where(holds_bottom, function.value, torch.minimum(at_lower, at_upper))
        most = torch.maximum(at_lower, at_upper)
        if function.pole is not None:
            holds_pole = (lower <= function.pole) & (upper >= function.pole)
            least, most = (torch.where(holds_pole, math.nan, bound) for bound in (least, most))
        return type(self)(least, most)

    @override
    def coupled(self, function: Coupled) -> Self:
        return type(self)(*function.bounds(*self.ends))

    @override
    def shift(self, constant: Tensor | float) -> Self:
        midpoint, halfwidth = self.parts
        return self.around(midpoint + constant, halfwidth)

    @override
    def add(self, other: Self) -> Self:
        (midpoint, halfwidth), (other_midpoint, other_halfwidth) = self.parts, other.parts
        return self.around(midpoint + other_midpoint, halfwidth + other_halfwidth)

    @override
    def product(self, other: Self, bilinear: Bilinear) -> Self:
        """Exact, coordinate by coordinate, of a multiplication.

        Else around the product of the midpoints, at most 1.5 times as wide (Rump, BIT 1999).
        """
        if not isinstance(bilinear, Multiplication):
            (x, reach), (y, other_reach) = self.parts, other.parts
            spread = bilinear(x.abs() + reach, other_reach) + bilinear(reach, y.abs())
            return self.around(bilinear(x, y), spread)
        if other is self:
            return self.unimodal(SQUARE)
        corners = torch.stack([bilinear(x, y) for x in self.ends for y in other.ends])
        return type(self)(corners.amin(0), corners.amax(0))

    @override
    def larger(self, other: Self) -> Self:
        return type(self)(torch.maximum(self.lower, other.lower), torch.maximum(self.upper, other.upper))

    @override
    def cat(self, others: Sequence[Self], dim: int) -> Self:
        boxes: list[Self] = [self, *others]
        lower = torch.cat([box.lower for box in boxes], dim)
        return type(self)(lower, torch.cat([box.upper for box in boxes], dim))

    @override
    def meet(self, other: Self) -> Self:
        (midpoint, halfwidth), (other_midpoint, other_halfwidth) = self.parts, other.parts
        apart = (other_midpoint - midpoint).abs()
        return self.around(midpoint, torch.minimum(halfwidth, other_halfwidth + apart))

    @override
    def worst_differences(self, weight: Tensor, labels: Tensor) -> Tensor:
        return box_gains(weight, labels, self.parts[1].expand(self.shape))
