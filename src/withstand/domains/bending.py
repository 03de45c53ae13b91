"""Activations that wait, so that max pooling can go before them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from withstand.domains.base import Moments
from withstand.domains.operations import Elementwise, MaxPool, Monotone, Valley
from withstand.types import ModelError

__all__ = ["Bending", "unknown"]

# A fall that does not keep an activation from waiting: that of torch's softplus at its threshold is 2e-9.
_NEGLIGIBLE = 1e-6


class Bending(Moments, ABC):
    """The interface of moments that put off an activation until they are asked what it makes of them.

    A maximum and a nondecreasing function can change places, and of normal values the maximum is known
    better than of what an activation has made of them; there are also fewer of them after it.
    """

    _put_off: tuple[Self, Elementwise] | None = None
    _made: Self | None = None

    @abstractmethod
    def bent(self, function: Elementwise | Valley) -> Self:
        """The image under an activation, now."""

    @abstractmethod
    def through(self, function: Monotone) -> Self:
        """The image under a monotone function that is no activation, now."""

    @property
    def now(self) -> Self:
        """The same, with nothing put off."""
        if self._put_off is None:
            return self
        if self._made is None:
            source, function = self._put_off
            self._made = source.now.bent(function)
        return self._made

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
    def valley(self, function: Valley) -> Self:
        return self.now.bent(function)

    def _later(self, function: Elementwise) -> Self:
        value = type(self).__new__(type(self))
        value._put_off = self, function
        return value


def unknown(function: Monotone) -> ModelError:
    """The error of a function of which a distribution knows nothing."""
    return ModelError(
        f"Moments pass through Elementwise, Valley, Rearrange, MaxPool and SortGroups, but a rule made use "
        f"of {type(function).__name__}. Write the rule in those, or keep to boxes and balls."
    )
