"""The normal distribution with independent coordinates: assumed density filtering, layer by layer.

Exact through the first affine map, and through the first function of each coordinate that follows
(Bibi, Alfadly, Ghanem, CVPR 2018). From there on coordinates are taken to be independent and normal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, final

import torch
from torch import Tensor
from typing_extensions import override

from withstand.domains.gaussians.bending import Comparable
from withstand.domains.gaussians.coupling import Tangent
from withstand.graph.bilinear import Multiplication
from withstand.graph.domain import NormOf
from withstand.graph.powers import SQUARE
from withstand.graph.primitives import Bilinear, Elementwise, Rearrange, Unimodal
from withstand.moments import hinged, hinged_gain, larger, quadrature, quadrature_gain
from withstand.operators import LinearOperator


@final
class Gaussian(Comparable):
    """Normal tensors with independent coordinates.

    Args:
        mean: Tensor (batch, …).
        variance: Tensor that broadcasts to it; (1, …) where it is the same for all examples, which
            saves linear maps the work. Nowhere negative.
    """

    def __init__(self, mean: Tensor, variance: Tensor) -> None:
        self._mean = mean
        length = len(variance) if variance.dim() == mean.dim() else 1
        self._variance = variance.expand(length, *mean.shape[1:])  # all dimensions but the batch written out

    @property
    @override
    def variance(self) -> Tensor:
        return self.now._variance

    @override
    def affine(self, operator: LinearOperator, bias: Tensor | None, norm: NormOf) -> Self:
        return type(self)(
            operator.affine(self.mean, bias),
            operator.entrywise(torch.square).apply(self.variance),
        )

    @override
    def shift(self, constant: Tensor | float) -> Self:
        return type(self)(self.mean + constant, self.variance)

    @override
    def add(self, other: Self) -> Self:
        if other is self:
            return type(self)(2 * self.mean, 4 * self.variance)
        return type(self)(self.mean + other.mean, self.variance + other.variance)

    @override
    def product(self, other: Self, bilinear: Bilinear) -> Self:
        """Exact for independent values, their products taken to be independent; and for a square."""
        if other is self and isinstance(bilinear, Multiplication):
            return self.unimodal(SQUARE)
        mean, squares = bilinear(self.mean, other.mean), self.mean.square() + self.variance
        variance = bilinear(squares, other.variance) + bilinear(self.variance, other.mean.square())
        return type(self)(mean, variance)

    @override
    def cat(self, others: Sequence[Self], dim: int) -> Self:
        parts: list[Self] = [self, *others]
        length = max(len(part.variance) for part in parts)
        variances = [part.variance.expand(length, *[-1] * (part.mean.dim() - 1)) for part in parts]
        return type(self)(torch.cat([part.mean for part in parts], dim), torch.cat(variances, dim))

    @override
    def larger(self, other: Self) -> Self:
        if other is self:
            return self
        return type(self)(*larger(self.mean, self.variance, other.mean, other.variance))

    @override
    def negated(self) -> Self:
        return type(self)(-self.mean, self.variance)

    @override
    def deviated(self, mean: Tensor, tangent: Tangent) -> Self:
        return type(self)(mean, tangent.squared(self.variance))

    @override
    def bent(self, function: Elementwise | Unimodal) -> Self:
        return type(self)(*bent(function, self.mean, self.variance))

    @override
    def rearranged(self, function: Rearrange) -> Self:
        return type(self)(function(self.mean), rearranged_deviations(function, self.variance))


def bent(function: Elementwise | Unimodal, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of an activation of normal coordinates.

    A closed form where it is piecewise linear or gives one; else by quadrature.
    """
    if function.hinges is not None:
        return hinged(mean, variance, function.hinges)
    if function.moments is not None:
        return function.moments.both(mean, variance)
    return quadrature(function.function, mean, variance)


def gain(function: Elementwise | Unimodal, mean: Tensor, variance: Tensor) -> Tensor:
    """The mean slope of an activation of normal coordinates."""
    if function.hinges is not None:
        return hinged_gain(mean, variance, function.hinges)
    if function.moments is not None:
        return function.moments.gain(mean, variance)
    return quadrature_gain(function.function, mean, variance)


def rearranged_deviations(function: Rearrange, deviations: Tensor) -> Tensor:
    """What is rearranged of variances or factors, of which constants have none.

    Args:
        function: As it acts on values.
        deviations: Tensor (batch, …).
    """
    if not function.sets_constants:
        return function(deviations)
    return without_constants(function(deviations), function(torch.zeros_like(deviations[:1])))


def without_constants(images: Tensor, constants: Tensor) -> Tensor:
    """What is left of rearranged deviations, also where a constant is infinite, as in a mask of attention."""
    return torch.where(constants.isfinite(), images - constants, 0)
