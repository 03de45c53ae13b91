"""The beginning of a network: as long as all is affine, noise leaves the means alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, TypeVar, final

import torch
from torch import Tensor
from typing_extensions import override

from withstand.domains import Domain, Elementwise, Moments, Rearrange, Unimodal
from withstand.domains.gaussians.diagonal import bent
from withstand.graph.domain import NormOf
from withstand.graph.point import Point
from withstand.graph.primitives import Bilinear, Coupled, Monotone
from withstand.moments import RECTIFIER, rectified_and_mean
from withstand.operators import LinearOperator
from withstand.types import ModelError

_Value = TypeVar("_Value", bound=Domain)


@final
class Onset(Domain):
    """Moments whose mean is also what comes without noise; then the first function that is not affine.

    Args:
        source: The moments, before that function.
        function: Which has been applied to them; none yet where None.
        other: What the function takes beside them; with no function, the larger of both is taken.
    """

    def __init__(
        self,
        source: Moments,
        function: Monotone | Unimodal | Coupled | Bilinear | None = None,
        other: Moments | None = None,
    ) -> None:
        self.source = source
        self.function = function
        self.other = other

    @property
    @override
    def center(self) -> Tensor:
        return self.source.center

    @property
    def clean(self) -> Tensor:
        """What comes without noise, (batch, …)."""
        other = None if self.other is None else Point(self.other.center)
        return self._image(Point(self.center), other).center

    @property
    def moments(self) -> Moments:
        """What comes under noise."""
        return self._image(self.source, self.other)

    def _image(self, source: _Value, other: _Value | None) -> _Value:
        match self.function:
            case Unimodal():
                return source.unimodal(self.function)
            case Monotone():
                return source.monotone(self.function)
            case Coupled():
                return source.coupled(self.function)
        if other is None:
            return source
        return source.larger(other) if self.function is None else source.product(other, self.function)

    @property
    def clean_and_mean(self) -> Tensor:
        """What comes without noise, and the mean of what comes under it: (2 batch, …)."""
        source, function = self.source, self.function
        if not isinstance(function, Elementwise | Unimodal):
            return torch.cat([self.clean, self.moments.mean])
        if function.hinges is RECTIFIER:
            return rectified_and_mean(source.mean, source.variance)  # the same, quicker
        return torch.cat([self.clean, bent(function, source.mean, source.variance)[0]])

    @override
    def affine(self, operator: LinearOperator, bias: Tensor | None, norm: NormOf) -> Self:
        return type(self)(self._affine_so_far.affine(operator, bias, norm))

    @override
    def monotone(self, function: Monotone) -> Self:
        if isinstance(function, Rearrange):
            return type(self)(self._affine_so_far.monotone(function))
        return type(self)(self._affine_so_far, function)

    @override
    def unimodal(self, function: Unimodal) -> Self:
        return type(self)(self._affine_so_far, function)

    @override
    def coupled(self, function: Coupled) -> Self:
        return type(self)(self._affine_so_far, function)

    @override
    def shift(self, constant: Tensor | float) -> Self:
        return type(self)(self._affine_so_far.shift(constant))

    @override
    def add(self, other: Self) -> Self:
        return type(self)(self._affine_so_far.add(other._affine_so_far))

    @override
    def product(self, other: Self, bilinear: Bilinear) -> Self:
        return type(self)(self._affine_so_far, bilinear, other._affine_so_far)

    @override
    def larger(self, other: Self) -> Self:
        return type(self)(self._affine_so_far, None, other._affine_so_far)

    @override
    def cat(self, others: Sequence[Self], dim: int) -> Self:
        return type(self)(self._affine_so_far.cat([other._affine_so_far for other in others], dim))

    @property
    def _affine_so_far(self) -> Moments:
        """The moments, to which no function has been applied yet."""
        if self.function is not None or self.other is not None:
            raise ModelError(
                "The rule of the network's first layer that is not affine applies its function and then goes "
                "on, which the expectation loss cannot follow. Make two layers of it, each with a rule."
            )
        return self.source
