"""What distributions share: activations that wait for max pooling, and maxima of two."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from withstand.domains.gaussians.coupling import Coupling
from withstand.graph.comparing import Sortable, largest, pooled, sorted_in_groups
from withstand.graph.coupled import Largest
from withstand.graph.primitives import Elementwise, MaxPool, Monotone, Rearrange, SortGroups, Unimodal
from withstand.types import ModelError

# A decrease that still lets an activation be put off: that of torch's softplus at its threshold is 2e-9.
_NEGLIGIBLE = 1e-6


class Bending(Coupling, ABC):
    """The interface of moments that put off an activation until they are asked what it makes of them.

    A maximum and a nondecreasing function can change places, and of normal values the maximum is known
    better than of what an activation has made of them; there are also fewer of them after it.
    """

    _mean: Tensor
    _put_off: tuple[Self, Elementwise] | None = None
    _cached: Self | None = None

    @abstractmethod
    def through(self, function: Monotone) -> Self:
        """The image under a monotone function that is no activation, now."""

    @property
    def now(self) -> Self:
        """The same, with nothing put off."""
        if self._put_off is None:
            return self
        if self._cached is None:
            source, function = self._put_off
            self._cached = source.now.bent(function)
        return self._cached

    @property
    @override
    def mean(self) -> Tensor:
        return self.now._mean

    @property
    @override
    def center(self) -> Tensor:
        return self.mean

    @property
    @override
    def shape(self) -> torch.Size:
        return self.mean.shape if self._put_off is None else self._put_off[0].shape

    @override
    def monotone(self, function: Monotone) -> Self:
        if isinstance(function, Elementwise):
            return self._later(function)
        if isinstance(function, MaxPool) and self._put_off is not None:
            source, activation = self._put_off
            if activation.slack < _NEGLIGIBLE:
                return source.monotone(function)._later(activation)
        return self.now.through(function)

    @override
    def unimodal(self, function: Unimodal) -> Self:
        return self.now.bent(function)

    def _later(self, function: Elementwise) -> Self:
        value = type(self).__new__(type(self))
        value._put_off = self, function
        return value


def unknown(function: Monotone) -> ModelError:
    """The error of a function of which a distribution knows nothing."""
    return ModelError(
        f"Moments pass through Elementwise, Unimodal, Rearrange, MaxPool and SortGroups, but a rule made use "
        f"of {type(function).__name__}. Write the rule in those, or keep to boxes and balls."
    )


class Comparable(Bending, Sortable, ABC):
    """The interface of distributions of which two of one shape have a maximum."""

    @abstractmethod
    def negated(self) -> Self:
        """-x."""

    @abstractmethod
    def rearranged(self, function: Rearrange) -> Self:
        """Its coordinates moved or picked out."""

    @override
    def exchanged(self, other: Self) -> tuple[Self, Self]:
        return self.negated().larger(other.negated()).negated(), self.larger(other)

    @override
    def largest(self, function: Largest) -> Self:
        return largest(self, function)

    @override
    def through(self, function: Monotone) -> Self:
        match function:
            case Rearrange():
                return self.rearranged(function)
            case MaxPool():
                return pooled(self, function)
            case SortGroups():
                return sorted_in_groups(self, function)
        raise unknown(function)
