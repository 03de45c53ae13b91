"""The beginning of a network: as long as all is affine, noise leaves the means alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar, final

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

_Value = TypeVar("_Value", bound=Domain)


@final
class Onset(Domain):
    """Moments whose mean is also what comes without noise; then the first function that is not affine.

    Where a rule goes on after that function, as those of LayerNorm and attention do, both are held.

    Args:
        source: The moments, before that function; where ``without_noise`` is given, what comes under noise.
        function: Which has been applied to them; none yet where None.
        other: What the function takes beside them; with no function, the larger of both is taken.
        without_noise: What comes without noise, once more has followed the function.
    """

    def __init__(
        self,
        source: Moments,
        function: Monotone | Unimodal | Coupled | Bilinear | None = None,
        other: Moments | None = None,
        without_noise: Point | None = None,
    ) -> None:
        self.source = source
        self.function = function
        self.other = other
        self.without_noise = without_noise

    @property
    @override
    def center(self) -> Tensor:
        return self.source.center if self.without_noise is None else self.without_noise.center

    @property
    def is_affine(self) -> bool:
        """Whether nothing but affine functions has been applied yet."""
        return self.function is None and self.other is None and self.without_noise is None

    @property
    def clean(self) -> Tensor:
        """What comes without noise, (batch, …)."""
        if self.without_noise is not None:
            return self.without_noise.center
        other = None if self.other is None else Point(self.other.center)
        return self._image(Point(self.source.center), other).center

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

    def _then(self, apply: Callable[..., Any], *others: Self) -> Self:
        """What is affine, or follows the first function: of what comes without noise and under it alike."""
        values: list[Self] = [self, *others]
        if all(value.is_affine for value in values):
            return type(self)(apply(*(value.source for value in values)))
        # Once of each value: what is multiplied by itself depends on itself.
        points = {id(value): Point(value.clean) for value in values}
        moments = {id(value): value.moments for value in values}
        without_noise = apply(*(points[id(value)] for value in values))
        return type(self)(apply(*(moments[id(value)] for value in values)), without_noise=without_noise)

    @property
    def clean_and_mean(self) -> Tensor:
        """What comes without noise, and the mean of what comes under it: (2 batch, …)."""
        source, function = self.source, self.function
        if self.without_noise is not None or not isinstance(function, Elementwise | Unimodal):
            return torch.cat([self.clean, self.moments.mean])
        if function.hinges is RECTIFIER:
            return rectified_and_mean(source.mean, source.variance)  # the same, quicker
        return torch.cat([self.clean, bent(function, source.mean, source.variance)[0]])

    @override
    def affine(self, operator: LinearOperator, bias: Tensor | None, norm: NormOf) -> Self:
        return self._then(lambda value: value.affine(operator, bias, norm))

    @override
    def monotone(self, function: Monotone) -> Self:
        if isinstance(function, Rearrange) or not self.is_affine:
            return self._then(lambda value: value.monotone(function))
        return type(self)(self.source, function)

    @override
    def unimodal(self, function: Unimodal) -> Self:
        if not self.is_affine:
            return self._then(lambda value: value.unimodal(function))
        return type(self)(self.source, function)

    @override
    def coupled(self, function: Coupled) -> Self:
        if not self.is_affine:
            return self._then(lambda value: value.coupled(function))
        return type(self)(self.source, function)

    @override
    def shift(self, constant: Tensor | float) -> Self:
        return self._then(lambda value: value.shift(constant))

    @override
    def add(self, other: Self) -> Self:
        return self._then(lambda value, another: value.add(another), other)

    @override
    def product(self, other: Self, bilinear: Bilinear) -> Self:
        if not (self.is_affine and other.is_affine):
            return self._then(lambda value, another: value.product(another, bilinear), other)
        return type(self)(self.source, bilinear, other.source)

    @override
    def larger(self, other: Self) -> Self:
        if not (self.is_affine and other.is_affine):
            return self._then(lambda value, another: value.larger(another), other)
        return type(self)(self.source, None, other.source)

    @override
    def cat(self, others: Sequence[Self], dim: int) -> Self:
        return self._then(lambda value, *rest: value.cat(list(rest), dim), *others)
