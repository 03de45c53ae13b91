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
from withstand.graph.primitives import Monotone, Unimodal
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
        image = function(self.midpoint)
        radius = self.radius * function.lipschitz
        if function.slack:
            radius = radius + function.slack * math.sqrt(image.shape[1:].numel())
        return replace(self, midpoint=image, radius=radius)

    @override
    def unimodal(self, function: Unimodal) -> Self:
        return replace(self, midpoint=function.function(self.midpoint), radius=self.radius * function.slope)

    @override
    def shift(self, constant: Tensor | float) -> Self:
        return replace(self, midpoint=self.midpoint + constant)

    @override
    def add(self, other: Self) -> Self:
        return replace(self, midpoint=self.midpoint + other.midpoint, radius=self.radius + other.radius)

    @override
    def cat(self, others: Sequence[Self], dim: int) -> Self:
        balls: list[Self] = [self, *others]
        radii = torch.stack([ball.radius.expand(len(self.midpoint)) for ball in balls])
        radius: Tensor = torch.linalg.vector_norm(radii, dim=0)
        return replace(self, midpoint=torch.cat([ball.midpoint for ball in balls], dim), radius=radius)

    @override
    def worst_differences(self, weight: Tensor, labels: Tensor) -> Tensor:
        # Without the expansion of squares, which cancels for rows that are nearly alike.
        distances = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
        return self.radius[:, None] * distances[labels]
