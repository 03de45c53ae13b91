"""The beginning of a network: as long as all is affine, noise leaves the means alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, final

import torch
from torch import Tensor
from typing_extensions import override

from withstand.domains import Domain, Elementwise, Moments, Rearrange, Valley
from withstand.domains.base import NormOf
from withstand.domains.operations import Monotone
from withstand.moments import RECTIFIER, rectified_and_mean
from withstand.spectral import LinearOperator

__all__ = ["Onset"]


@final
class Onset(Domain):
    """Moments whose mean is also what comes without noise; then the first function that is not affine.

    Args:
        source: The moments, before that function.
        function: Which has been applied to them; none yet where None.
    """

    def __init__(self, source: Moments, function: Monotone | Valley | None = None) -> None:
        self.source = source
        self.function = function

    @property
    @override
    def center(self) -> Tensor:
        return self.source.center

    @property
    def clean(self) -> Tensor:
        """What comes without noise, (batch, …)."""
        match self.function:
            case None:
                return self.center
            case Valley():
                return self.function.function(self.center)
            case _:
                return self.function(self.center)

    @property
    def moments(self) -> Moments:
        """What comes under noise."""
        match self.function:
            case None:
                return self.source
            case Valley():
                return self.source.valley(self.function)
            case _:
                return self.source.monotone(self.function)

    @property
    def clean_and_mean(self) -> Tensor:
        """What comes without noise, and the mean of what comes under it: (2 batch, …)."""
        if isinstance(self.function, Elementwise) and self.function.hinges is RECTIFIER:
            return rectified_and_mean(self.source.mean, self.source.variance)  # the same, quicker
        return torch.cat([self.clean, self.moments.mean])

    @override
    def affine(self, operator: LinearOperator, bias: Tensor | None, norm: NormOf) -> Self:
        return type(self)(self.source.affine(operator, bias, norm))

    @override
    def monotone(self, function: Monotone) -> Self:
        if isinstance(function, Rearrange):
            return type(self)(self.source.monotone(function))
        return type(self)(self.source, function)

    @override
    def valley(self, function: Valley) -> Self:
        return type(self)(self.source, function)

    @override
    def shift(self, constant: Tensor | float) -> Self:
        return type(self)(self.source.shift(constant))

    @override
    def add(self, other: Self) -> Self:
        return type(self)(self.source.add(other.source))

    @override
    def cat(self, others: Sequence[Self], dim: int) -> Self:
        return type(self)(self.source.cat([other.source for other in others], dim))
