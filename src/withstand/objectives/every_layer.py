"""Mean and variance through all layers, with the images as they are beside them.

Also the expected cross-entropy of normal logits, by closed forms that approximate it or by cubature.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cache
from typing import Any, final

import numpy as np
import scipy
import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from withstand.core.noise import GaussianNoise
from withstand.core.setting_rules import Whole, settle
from withstand.domains import Call, Domain, FactoredGaussian, Gaussian, Moments, Program
from withstand.graph.layout import Layout
from withstand.graph.rules.norm_rules import BatchNorm
from withstand.objectives import propagation
from withstand.objectives.onset import Onset
from withstand.objectives.propagation import NoisyLoss, Propagation


class ExpectedLoss(ABC):
    """The interface of a loss of logits of which mean and variance are known."""

    @abstractmethod
    def __call__(self, logits: Moments, labels: Tensor) -> Tensor:
        """The mean over the batch.

        Args:
            logits: Moments of (batch, classes).
            labels: Integer tensor (batch,).

        Returns:
            Scalar tensor.
        """


@dataclass(frozen=True)
class OfMean(ExpectedLoss):
    """The cross-entropy of the mean logits: a lower bound of the expected one (Jensen), blind to variance."""

    @override
    def __call__(self, logits: Moments, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.mean, labels)


@dataclass(frozen=True)
class MeanField(ExpectedLoss):
    """The log loss of the mean softmax, in its mean-field approximation.

    p_k = 1 / Σ_j exp(-(m_k - m_j) / sqrt(1 + π/8 (v_k + v_j))): each pair of classes by the probit
    approximation of the expected sigmoid (Daunizeau, arXiv 1703.00091; Lu, Ie, Sha, arXiv 2006.07584).
    """

    @override
    def __call__(self, logits: Moments, labels: Tensor) -> Tensor:
        mean, variance = logits.mean, logits.variance.expand_as(logits.mean)
        chosen = labels[:, None]
        apart = mean - mean.gather(1, chosen)
        scale = torch.rsqrt(1 + math.pi / 8 * (variance + variance.gather(1, chosen)))
        # The class against itself gives the 1 of 1 + Σ exp.
        return (apart * scale).logsumexp(dim=1).mean()


@dataclass(frozen=True)
class Cubature(ExpectedLoss):
    """The expected cross-entropy of independent normal logits, over points that are the same at each call.

    The points are a Sobol sequence, brought to the normal distribution, and their negatives.

    Args:
        num_points: How many, even; the error decreases almost as 1 / num_points.

    Raises:
        ValueError: the number is odd or below 2.
    """

    num_points: int = 64

    def __post_init__(self) -> None:
        settle(self, num_points=Whole(least=2))
        if self.num_points % 2:
            raise ValueError(f"Expected an even num_points of at least 2, but got {self.num_points}.")

    @override
    def __call__(self, logits: Moments, labels: Tensor) -> Tensor:
        mean = logits.mean
        std = logits.variance.expand_as(mean).clamp_min(torch.finfo(mean.dtype).eps ** 2).sqrt()
        points = _points(self.num_points, mean.shape[1], mean.dtype, mean.device)
        drawn = mean + std * points[:, None]
        return (
            drawn.logsumexp(dim=2) - drawn.gather(2, labels.expand(len(points), -1)[..., None])[..., 0]
        ).mean()


@cache
def _points(count: int, dimensions: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Standard normal points (count, dimensions) of mean 0, cached on the device."""
    half = count // 2
    sobol = scipy.stats.qmc.Sobol(dimensions, scramble=True, rng=0)
    sequence = sobol.random_base2(max(half - 1, 0).bit_length())
    points = scipy.stats.norm.ppf(sequence[:half])
    with torch.inference_mode(False):  # they are cached, and could not be used in training otherwise
        return torch.from_numpy(np.concatenate([points, -points])).to(device, dtype)


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
        settle(self, num_factors=Whole(least=0))

    @override
    def __call__(self, program: Program, images: Tensor, noise: GaussianNoise, labels: Tensor) -> NoisyLoss:
        if self.num_factors:
            start: Moments = FactoredGaussian(images, noise.random_factors(images, self.num_factors)[:, None])
        else:
            start = propagation.input_moments(images, noise)
        reached = program.walk(Onset(start), _result)
        logits = propagation.required_logits(
            reached.clean if isinstance(reached, Onset | _Beside) else reached
        )
        return NoisyLoss(logits, self.loss(reached.moments, labels))

    @override
    def verify_capture(self, program: Program, images: Tensor) -> None:
        def reach(points: Tensor) -> Tensor:
            return propagation.through_every_layer(
                program, Gaussian(points, torch.zeros_like(points[:1]))
            ).mean

        program.verify_capture(images, reach)


@dataclass(frozen=True, eq=False)
class _Beside:
    """A tensor without noise, as the graph has it, and its moments under noise."""

    clean: Tensor
    moments: Domain


def _result(call: Call) -> Any:
    if not call.takes(_Beside):
        return propagation.of_onset(
            call, lambda onset, layout: _Beside(layout.unstored(onset.clean), onset.moments)
        )
    layouts = call.step.layouts
    tensors = {node: _clean(value, layouts[node]) for node, value in call.values.items()}
    of_clean, of_moments = call._replace(values=tensors), call.mapped(_moments)
    layer, clean = BatchNorm.of(call), of_clean.compute()
    if layer is None:
        return _paired(clean, propagation.rule_of_moments(of_moments))
    first = clean[0] if isinstance(clean, list | tuple) else clean
    noisy = propagation.normalised(layer, of_clean.input, of_moments.input)
    return propagation.in_place_of_first(clean, _Beside(first, noisy))


def _paired(clean: Any, moments: Any) -> Any:
    if isinstance(moments, Domain):
        return _Beside(clean, moments)
    return [_paired(*pair) for pair in zip(clean, moments, strict=True)]


def _clean(value: Any, layout: Layout) -> Tensor:
    return value.clean if isinstance(value, _Beside) else layout.unstored(value.center)


def _moments(value: Any) -> Any:
    return value.moments if isinstance(value, _Beside | Onset) else value
