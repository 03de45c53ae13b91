"""The l2-ball domain: global Lipschitz bounds (Tsuzuku et al., "Lipschitz-margin training")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from withstand.core import norms
from withstand.graph.domain import NormOf, Region
from withstand.graph.primitives import Bilinear, Coupled, Monotone, Slope, Unimodal
from withstand.operators import LinearOperator


@dataclass(frozen=True, eq=False)
class Ball(Region):
    """Every tensor within an l2 distance of a center.

    Args:
        midpoint: Tensor (batch, …).
        radius: Tensor (batch,), or (1,) for all examples; nowhere negative.
    """

    midpoint: Tensor
    radius: Tensor

    @property
    @override
    def center(self) -> Tensor:
        return self.midpoint

    @property
    @override
    def ends(self) -> tuple[Tensor, Tensor]:
        reach = norms.per_example(self.radius, self.midpoint)
        return self.midpoint - reach, self.midpoint + reach

    @override
    def affine(self, operator: LinearOperator, bias: Tensor | None, norm: NormOf) -> Self:
        image = operator.apply(self.midpoint)
        return replace(
            self,
            midpoint=image if bias is None else image + bias,
            radius=self.radius * norm(operator, self.example_shape),
        )

    @override
    def monotone(self, function: Monotone) -> Self:
        return self.image(function, self)

    @override
    def unimodal(self, function: Unimodal) -> Self:
        return self.image(function, self)

    @override
    def coupled(self, function: Coupled) -> Self:
        return self.image(function, self)

    def image(self, function: Monotone | Unimodal | Coupled, region: Region) -> Self:
        """A ball that holds the image of all members that are also in a convex region.

        Args:
            function: The function.
            region: The region, which holds the center; how steep the function is, is asked there alone.
        """
        midpoint = (
            function.function(self.midpoint) if isinstance(function, Unimodal) else function(self.midpoint)
        )
        match function:
            case Coupled():
                radius = self.radius * function.lipschitz(self.midpoint, self.radius, *region.ends)
            case Unimodal():
                radius = self.radius * _steepest(function.slope, region)
            case Monotone():
                radius = self.radius * _steepest(function.lipschitz, region)
                if function.slack:
                    radius = radius + function.slack * math.sqrt(midpoint.shape[1:].numel())
        return replace(self, midpoint=midpoint, radius=radius)

    @override
    def shift(self, constant: Tensor | float) -> Self:
        return replace(self, midpoint=self.midpoint + constant)

    @override
    def add(self, other: Self) -> Self:
        return replace(self, midpoint=self.midpoint + other.midpoint, radius=self.radius + other.radius)

    @override
    def product(self, other: Self, bilinear: Bilinear) -> Self:
        of_own, of_other = bilinear.norms(self.midpoint, other.midpoint)
        radius = of_own * other.radius + of_other * self.radius + self.radius * other.radius
        return replace(self, midpoint=bilinear(self.midpoint, other.midpoint), radius=radius)

    @override
    def larger(self, other: Self) -> Self:
        # No coordinate changes by more than the larger of its two changes.
        midpoint = torch.maximum(self.midpoint, other.midpoint)
        return replace(self, midpoint=midpoint, radius=_together([self, other]))

    @override
    def cat(self, others: Sequence[Self], dim: int) -> Self:
        balls: list[Self] = [self, *others]
        midpoint = torch.cat([ball.midpoint for ball in balls], dim)
        return replace(self, midpoint=midpoint, radius=_together(balls))

    @override
    def meet(self, other: Self) -> Self:
        apart = norms.norm(other.midpoint - self.midpoint, 2)
        return replace(self, radius=torch.minimum(self.radius, other.radius + apart))

    @override
    def worst_differences(self, weight: Tensor, labels: Tensor) -> Tensor:
        # Without the expansion of squares, which cancels for rows that are nearly alike.
        distances = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
        return self.radius[:, None] * distances[labels]


def _together(balls: Sequence[Ball]) -> Tensor:
    """The radius of what members of several balls make side by side."""
    radii = torch.stack([ball.radius.expand(len(ball.midpoint)) for ball in balls])
    radius: Tensor = torch.linalg.vector_norm(radii, dim=0)
    return radius


def _steepest(slope: Slope, region: Region) -> float | Tensor:
    """Over a region, of each example where it differs."""
    return norms.flat(slope(*region.ends)).amax(1) if callable(slope) else slope
