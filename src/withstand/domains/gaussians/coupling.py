"""What distributions make of softmax and its like, and of normalisation: linearised, with a better mean.

Deviations pass through the Jacobian at the mean, which every distribution can do with what it keeps of them.
Softmax is the sigmoid of its log-odds x_i - log Σ_{j≠i} exp x_j; these alone are linearised, and the sigmoid
has its own moments: for two classes exact. Normalisation divides by the deviation to be expected under noise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, Self

import torch
from torch import Tensor
from typing_extensions import override

from withstand.graph.coupled import (
    Largest,
    LogSoftmax,
    LogSumExp,
    Normalization,
    Softmax,
    log_sum_of_others,
    sum_of_others,
)
from withstand.graph.domain import Moments
from withstand.graph.primitives import Coupled, Elementwise, Unimodal
from withstand.types import ModelError

_SIGMOID = Elementwise(torch.sigmoid, 0.25)


class Tangent(NamedTuple):
    """A linear map, another one for each example.

    Attributes:
        apply: Of deviations, (…, batch or 1, …).
        squared: Of variances, (batch or 1, …): by the squares of the map's entries.
    """

    apply: Callable[[Tensor], Tensor]
    squared: Callable[[Tensor], Tensor]


class Coupling(Moments, ABC):
    """The interface of moments that pass through functions of several coordinates."""

    @abstractmethod
    def deviated(self, mean: Tensor, tangent: Tangent) -> Self:
        """Another mean, and deviations under a linear map."""

    @abstractmethod
    def bent(self, function: Elementwise | Unimodal) -> Self:
        """The image under an activation, now."""

    @abstractmethod
    def largest(self, function: Largest) -> Self:
        """The image under a maximum, by maxima of two."""

    @override
    def coupled(self, function: Coupled) -> Self:
        match function:
            case Softmax():
                return self._softmax(function.dim)
            case LogSoftmax():
                logs, average = self._log_softmax(function.dim)
                return logs.shift(-average / 2)
            case LogSumExp():
                return self._log_sum_exp(function)
            case Largest():
                return self.largest(function)
            case Normalization():
                return self._normalized(function)
        raise ModelError(
            "Moments pass through Softmax, LogSoftmax, LogSumExp, Largest and Normalization, but a rule made "
            f"use of {type(function).__name__}. Write the rule in those, or keep to boxes and balls."
        )

    def _log_softmax(self, dim: int) -> tuple[Self, Tensor]:
        """Linearised, and what its variance is on average under the softmax, dim kept.

        Half of that is how much log Σ exp x grows by noise, to second order.
        """
        dim -= self.mean.dim()  # counted from the end, it is the same in a stack of deviations
        shares = torch.softmax(self.mean, dim)
        tangent = Tangent(
            lambda deviations: deviations - (shares * deviations).sum(dim, keepdim=True),
            lambda variance: (
                _rest(shares, dim).square() * variance + sum_of_others(shares.square() * variance, dim)
            ),
        )
        logs = self.deviated(torch.log_softmax(self.mean, dim), tangent)
        return logs, (shares * logs.variance).sum(dim, keepdim=True)

    def _softmax(self, dim: int) -> Self:
        """The sigmoid of log-odds.

        They deviate as log p_i does, divided by 1 - p_i. What the others vary among themselves is what is
        left of the average variance when that between x_i and all others is taken away.
        """
        logs, average = self._log_softmax(dim)
        shares = torch.softmax(self.mean, dim)
        rest = _rest(shares, dim)
        among_others = ((average - shares * logs.variance / rest) / rest).clamp_min(0)
        log_odds = self.mean - log_sum_of_others(self.mean, dim) - among_others / 2
        scaled = Tangent(lambda deviations: deviations / rest, lambda variance: variance / rest.square())
        return logs.deviated(log_odds, scaled).bent(_SIGMOID)

    def _log_sum_exp(self, function: LogSumExp) -> Self:
        _, average = self._log_softmax(function.dim)
        dim, kept = function.dim - self.mean.dim(), function.keepdim
        shares = torch.softmax(self.mean, dim)
        tangent = Tangent(
            lambda deviations: (shares * deviations).sum(dim, keepdim=kept),
            lambda variance: (shares.square() * variance).sum(dim, keepdim=kept),
        )
        return self.deviated(function(self.mean) + (average if kept else average.squeeze(dim)) / 2, tangent)

    def _normalized(self, function: Normalization) -> Self:
        function = replace(function, dims=[dim - self.mean.dim() for dim in function.dims])
        mean = function.center(self.mean)
        centered = self.deviated(mean, _normalizing(function, torch.zeros_like(mean), 1.0))
        size = (function.mean(mean.square() + centered.variance) + function.eps).sqrt()
        return self.deviated(mean / size, _normalizing(function, mean / size, size))


def _rest(shares: Tensor, dim: int) -> Tensor:
    """1 - p_i, so far above 0 that rounding does not show in what is divided by it."""
    return sum_of_others(shares, dim).clamp_min(torch.finfo(shares.dtype).eps ** 0.5)


def _normalizing(function: Normalization, output: Tensor, size: Tensor | float) -> Tangent:
    """(c - y mean(y c)) / s of centred deviations c, at an output y of which s is the size of the input."""
    count, is_centered = function.count(output), float(function.centered)

    def squared(variance: Tensor) -> Tensor:
        zeroth, first, second = (function.mean(variance * output**power) for power in range(3))
        others = is_centered * (zeroth + 2 * output * first) + output.square() * second
        own = variance * (1 - 2 * (is_centered + output.square()) / count)
        return ((own + others / count) / size**2).clamp_min(0)

    def apply(deviations: Tensor) -> Tensor:
        centered = function.center(deviations)
        return (centered - output * function.mean(output * centered)) / size

    return Tangent(apply, squared)
