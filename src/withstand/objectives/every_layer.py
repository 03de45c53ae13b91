"""Mean and variance through all layers, with the images as they are beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor
from typing_extensions import override

from withstand.checks import require_at_least
from withstand.domains import Call, Domain, FactoredGaussian, Gaussian, Moments, Program
from withstand.noise import GaussianNoise
from withstand.objectives.expected_losses import ExpectedLoss, MeanField
from withstand.objectives.onset import Onset
from withstand.objectives.propagation import (
    NoisyLoss,
    Propagation,
    input_moments,
    normalised,
    of_onset,
    required_logits,
    rule_of_moments,
    through_every_layer,
    training_batch_norm,
)


@final
@dataclass(frozen=True)
class EveryLayer(Propagation):
    """Mean and variance through every layer (assumed density filtering), and a loss of both.

    With no factors, coordinates of white noise are taken to be independent after the first layer, which
    makes deviations too small by far where a layer adds up much that varies alike. Some random factors
    keep the covariances, on average; each costs a forward and a backward pass. Noise that is blurred
    widely has few factors by nature (about channels · height · width / (4 π blur²)); unless a number is
    given, all of them are taken.

    Args:
        loss: Of the logits' mean and variance.
        num_factors: Directions of noise, drawn anew at each step and the same for all images, that stand
            for its covariance.

    Raises:
        ValueError: ``num_factors`` is negative.
    """

    loss: ExpectedLoss = field(default_factory=MeanField)
    num_factors: int = 0

    def __post_init__(self) -> None:
        require_at_least(0, num_factors=self.num_factors)

    @override
    def __call__(self, program: Program, images: Tensor, noise: GaussianNoise, labels: Tensor) -> NoisyLoss:
        if self.num_factors:
            start: Moments = FactoredGaussian(images, noise.random_factors(images, self.num_factors)[:, None])
        else:
            start = input_moments(images, noise)
        reached = program.walk(Onset(start), _result)
        logits = required_logits(reached.clean if isinstance(reached, Onset | _Beside) else reached)
        return NoisyLoss(logits, self.loss(reached.moments, labels))

    @override
    def rehearse(self, program: Program, images: Tensor) -> None:
        def reach(points: Tensor) -> Tensor:
            return through_every_layer(program, Gaussian(points, torch.zeros_like(points[:1]))).mean

        program.rehearse(images, reach)


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
