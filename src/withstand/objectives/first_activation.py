"""The published form: exact through the first activation, linearised at the mean after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from withstand.domains import Call, Domain, Elementwise, Moments, Program, Rearrange, Valley
from withstand.domains.base import NormOf
from withstand.domains.operations import Monotone
from withstand.moments import RECTIFIER, rectified_mean
from withstand.noise import GaussianNoise
from withstand.objectives.propagation import (
    NoisyLoss,
    Propagation,
    input_moments,
    normalised,
    rule_of_moments,
    training_batch_norm,
)
from withstand.spectral import LinearOperator

__all__ = ["FirstActivation"]


@final
@dataclass(frozen=True)
class FirstActivation(Propagation):
    """The cross-entropy of the mean logits, to first order in what follows the first activation.

    The expected output of the first activation is exact where nothing but linear layers comes before
    it; the rest of the network takes it for the output itself (Alfadly, Bibi, Ghanem, arXiv 1904.11005).
    That rest is passed once, with the images as they are in the same batch.
    """

    @override
    def __call__(self, program: Program, images: Tensor, noise: GaussianNoise, labels: Tensor) -> NoisyLoss:
        reached = program.walk(_Onset(input_moments(images, noise)), _result)
        if isinstance(reached, _Onset):  # a linear network, of which noise leaves the mean as it is
            return NoisyLoss(reached.center, F.cross_entropy(reached.center, labels))
        logits, expected = reached.tensor.chunk(2)
        return NoisyLoss(logits, F.cross_entropy(expected, labels))


@final
class _Onset(Domain):
    """Moments as long as nothing but affine maps has been applied; then what the first other function makes.

    Args:
        moments: Whose mean is also what comes without noise.
        both: Without noise and expected under noise, (2 batch, …), once there is a difference.
    """

    def __init__(self, moments: Moments, both: Tensor | None = None) -> None:
        self.moments = moments
        self.both = both

    @property
    @override
    def center(self) -> Tensor:
        return self.moments.center

    @override
    def affine(self, operator: LinearOperator, bias: Tensor | None, norm: NormOf) -> Self:
        return type(self)(self.moments.affine(operator, bias, norm))

    @override
    def monotone(self, function: Monotone) -> Self:
        if isinstance(function, Rearrange):
            return type(self)(self.moments.monotone(function))
        if isinstance(function, Elementwise) and function.hinges is RECTIFIER:
            expected = rectified_mean(self.moments.mean, self.moments.variance)
        else:
            expected = self.moments.monotone(function).mean
        return self._bent(function(self.center), expected)

    @override
    def valley(self, function: Valley) -> Self:
        return self._bent(function.function(self.center), self.moments.valley(function).mean)

    @override
    def shift(self, constant: Tensor | float) -> Self:
        return type(self)(self.moments.shift(constant))

    @override
    def add(self, other: Self) -> Self:
        return type(self)(self.moments.add(other.moments))

    @override
    def cat(self, others: Sequence[Self], dim: int) -> Self:
        return type(self)(self.moments.cat([other.moments for other in others], dim))

    def _bent(self, clean: Tensor, expected: Tensor) -> Self:
        return type(self)(self.moments, torch.cat([clean, expected]))


@dataclass(frozen=True, eq=False)
class _Both:
    """A tensor without noise and the one expected under noise, one after the other: (2 batch, …)."""

    tensor: Tensor


def _result(call: Call) -> Any:
    if call.takes(_Both):
        return _of_both(call.mapped(_both))
    if not call.takes(_Onset):
        return call.compute()
    layer = training_batch_norm(call)
    if layer is not None:
        call.compute_on_centers()  # which updates its running statistics
        return normalised(layer, call.input.center, call.input)
    result = rule_of_moments(call)
    if isinstance(result, list):
        return [_opened(each) for each in result]
    if isinstance(result, Domain):
        return _opened(result)
    return call.mapped(_room_for_both).compute()  # a size, or the like, which is to be that of both


def _of_both(call: Call) -> Any:
    layer = training_batch_norm(call)
    if layer is None:
        return _wrapped(call.compute())
    clean, noisy = call.input.chunk(2)
    return _Both(torch.cat([layer(clean), normalised(layer, clean, noisy)]))


def _opened(value: Any) -> Any:
    return value if value.both is None else _Both(value.both)


def _wrapped(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _Both(value)
    return [_wrapped(each) for each in value] if isinstance(value, list | tuple) else value


def _both(value: Any) -> Any:
    if isinstance(value, _Onset):
        return torch.cat([value.center, value.center])
    return value.tensor if isinstance(value, _Both) else value


def _room_for_both(value: Any) -> Any:
    return value.center.repeat(2, *[1] * (value.center.dim() - 1)) if isinstance(value, _Onset) else value
