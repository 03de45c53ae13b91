"""Mean and variance through all layers, with the images as they are beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor
from typing_extensions import override

from withstand.domains import Call, Domain, Program
from withstand.noise import GaussianNoise
from withstand.objectives.expected_losses import ExpectedLoss, MeanField
from withstand.objectives.onset import Onset
from withstand.objectives.propagation import (
    NoisyLoss,
    Propagation,
    input_moments,
    normalised,
    of_onset,
    rule_of_moments,
    training_batch_norm,
)

__all__ = ["EveryLayer"]


@final
@dataclass(frozen=True)
class EveryLayer(Propagation):
    """Mean and variance through every layer (assumed density filtering), and a loss of both.

    Coordinates are taken to be independent after the first layer, as far as the noise is white;
    blurred noise keeps the covariances that its factors make.

    Args:
        loss: Of the logits' mean and variance.
    """

    loss: ExpectedLoss = field(default_factory=MeanField)

    @override
    def __call__(self, program: Program, images: Tensor, noise: GaussianNoise, labels: Tensor) -> NoisyLoss:
        reached = program.walk(Onset(input_moments(images, noise)), _result)
        return NoisyLoss(reached.clean, self.loss(reached.moments, labels))


@dataclass(frozen=True, eq=False)
class _Beside:
    """A tensor without noise, and its moments under noise."""

    clean: Tensor
    moments: Domain


def _result(call: Call) -> Any:
    if not call.takes(_Beside):
        result = of_onset(call, lambda onset: _Beside(onset.clean, onset.moments))
        return call.compute_on_centers() if result is None else result
    clean_call, moments_call = call.mapped(_clean), call.mapped(_moments)
    layer = training_batch_norm(call)
    if layer is not None:
        clean = clean_call.compute()
        return _Beside(clean, normalised(layer, clean_call.input, moments_call.input))
    return _paired(clean_call.compute(), rule_of_moments(moments_call))


def _paired(clean: Any, moments: Any) -> Any:
    if isinstance(moments, Domain):
        return _Beside(clean, moments)
    if isinstance(moments, list):
        return [_paired(*each) for each in zip(clean, moments, strict=True)]
    return moments  # a size, or the like


def _clean(value: Any) -> Any:
    return value.clean if isinstance(value, _Beside | Onset) else value


def _moments(value: Any) -> Any:
    return value.moments if isinstance(value, _Beside | Onset) else value
