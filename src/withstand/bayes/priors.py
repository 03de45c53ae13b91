"""What random weights are believed to be before any data: priors, and how far a posterior is from them."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from typing_extensions import override

from withstand.bayes.posterior import Normal, divergence
from withstand.core.setting_rules import AT_LEAST_0, POSITIVE, PROBABILITY, instance_of, optional, settle
from withstand.models.weight_files import read_weights, weights_file
from withstand.moments.normal import ROOT_HALF, ROOT_TWO_PI, pdf
from withstand.operators import Buffers
from withstand.types import ModelError

# Of the quadrature of a mixture: its error is below 0.0005 nats an entry while wide / narrow is below 10,000.
_NUM_NODES = 20
_MOST_DEVIATIONS = 5.0  # of a posterior, on both sides of its mean
_MOST_EXPONENT = 10.0  # exp(-10) of the wide component's density counts as none


class Prior(nn.Module, ABC):
    """The interface of a density of weights, whose entries are independent.

    ``Variational(prior=…)`` takes one for all random weights of a network, ``bayes.kl(model, prior)`` too.
    """

    def prepare(self) -> None:
        """Reads what it needs, by default nothing; training calls this, and ``divergence`` otherwise."""
        return

    @abstractmethod
    def divergence(self, name: str, mean: Tensor, std: Tensor) -> Tensor:
        """KL(N(mean, std²) || prior), summed over the entries of one weight.

        Args:
            name: Of the weight in the network, such as ``network.1.weight``.
            mean: Tensor of any shape.
            std: Tensor of the same shape, at least 0.

        Returns:
            Scalar tensor in nats, at least 0, with gradient; infinite where a std is 0.
        """


a_prior = optional(instance_of(Prior, "a prior, such as LaplacePrior(0.1)"))
"""The rule of a prior, or None."""


class GaussianPrior(Prior):
    """N(0, std²), as ``Posterior.prior_std`` has it for each layer.

    Args:
        std: Of each entry, positive.

    Raises:
        ValueError: it is not positive.
    """

    def __init__(self, std: float = 0.1) -> None:
        super().__init__()
        self.std = std
        settle(self, std=POSITIVE)

    @override
    def divergence(self, name: str, mean: Tensor, std: Tensor) -> Tensor:
        return divergence(Normal(mean, std, self.std))

    @override
    def extra_repr(self) -> str:
        return f"std={self.std}"


class LaplacePrior(Prior):
    """The density exp(-|w| / scale) / (2 scale), which has heavier tails than a normal one and a peak at 0.

    The divergence is in closed form: log(2 scale) - log(std) - log(2 pi e) / 2 + E|w| / scale, where
    E|w| = 2 std φ(h) + mean (2 Φ(h) - 1) with h = mean / std is the mean of the folded normal distribution.

    Args:
        scale: Positive; the standard deviation of the prior is √2 times that.

    Raises:
        ValueError: it is not positive.
    """

    def __init__(self, scale: float = 0.1) -> None:
        super().__init__()
        self.scale = scale
        settle(self, scale=POSITIVE)

    @override
    def divergence(self, name: str, mean: Tensor, std: Tensor) -> Tensor:
        h = mean / std.clamp_min(torch.finfo(std.dtype).tiny)
        size = 2 * std * pdf(h) + mean * torch.erf(ROOT_HALF * h)
        constant = math.log(2 * self.scale / ROOT_TWO_PI) - 0.5
        return (size / self.scale - std.log() + constant).sum()

    @override
    def extra_repr(self) -> str:
        return f"scale={self.scale}"


class MixturePrior(Prior):
    """share · N(0, wide²) + (1 - share) · N(0, narrow²), a scale mixture (Blundell et al., ICML 2015, eq. 7).

    Its divergence has no closed form. It is the one from N(0, wide²), less log(share), less the expectation
    of softplus(a - b w²), where a and b come from share and deviations. This expectation is found by
    Gauss-Legendre quadrature in one dimension: where both the posterior and the function are not negligible,
    with 20 nodes. Draws, as in the paper, would cost a twentieth of that; but layers that draw
    outputs have no drawn weights, and the gradient would be noisy where this one is exact to four digits.

    Args:
        wide: Standard deviation of the wide component, positive.
        narrow: Of the narrow one, positive, at most ``wide``.
        share: Of the wide component, in (0, 1).

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(self, wide: float = 0.1, narrow: float = 0.0025, share: float = 0.5) -> None:
        super().__init__()
        self.wide, self.narrow, self.share = wide, narrow, share
        settle(self, wide=POSITIVE, narrow=POSITIVE, share=PROBABILITY)
        if self.narrow > self.wide:
            raise ValueError(f"Expected narrow to be at most wide, {wide:g}, but got {narrow:g}.")

    @override
    def divergence(self, name: str, mean: Tensor, std: Tensor) -> Tensor:
        offset = math.log((1 - self.share) / self.share * self.wide / self.narrow)
        slope = 0.5 / self.narrow**2 - 0.5 / self.wide**2
        rest: Tensor = _MeanSoftplus.apply(mean, std, offset, slope)  # type: ignore[no-untyped-call]
        return divergence(Normal(mean, std, self.wide)) - mean.numel() * math.log(self.share) - rest

    @override
    def extra_repr(self) -> str:
        return f"wide={self.wide}, narrow={self.narrow}, share={self.share}"


class TrainedPrior(Prior):
    """N(w, deviation²) with w of a trained network (MOPED: Krishnan et al., AAAI 2020).

    The deviation of an entry is ``relative`` times its magnitude, and at least ``std``.

    Args:
        weights: A ``.safetensors`` or state-dict file of the plain network, as ``model.bayes.means`` has it,
            or a run folder.
        std: The smallest deviation, positive.
        relative: Of the magnitude of each weight, at least 0.

    Raises:
        TypeError: ``weights`` is no path.
        ValueError: a number is out of its range.
    """

    def __init__(self, weights: str, std: float = 0.1, relative: float = 0.0) -> None:
        super().__init__()
        if not isinstance(weights, str | os.PathLike):
            raise TypeError(
                "Expected weights as the path of a trained network, such as runs/plain/model.safetensors, "
                f"but got {type(weights).__name__}."
            )
        self.weights, self.std, self.relative = os.fspath(weights), std, relative
        settle(self, std=POSITIVE, relative=AT_LEAST_0)
        self.means = Buffers()

    @override
    def prepare(self) -> None:
        """Reads the file.

        Raises:
            ModelError: the file is missing, damaged or of another kind.
        """
        if not len(self.means):
            for name, value in read_weights(weights_file(Path(self.weights).expanduser())).items():
                self.means.put(name, value)

    @override
    def divergence(self, name: str, mean: Tensor, std: Tensor) -> Tensor:
        """KL(N(mean, std²) || prior), as ``Prior`` has it.

        Raises:
            ModelError: the file cannot be read, or has no such weight of that shape.
        """
        self.prepare()
        trained = self.means.get(name)
        if trained is None or trained.shape != mean.shape:
            has = "no such" if trained is None else f"one of shape {tuple(trained.shape)}"
            raise ModelError(
                f"The prior needs a weight {name!r} of shape {tuple(mean.shape)}, but {self.weights} has "
                f"{has}. Name the file of a plain network of the same layers, such as model.bayes.means."
            )
        if trained.device != mean.device:
            self.means.put(name, trained.to(mean.device))
        trained = trained.to(mean)
        # A divergence stays as it is where both densities are scaled alike.
        deviation = (self.relative * trained.abs()).clamp_min(self.std)
        return divergence(Normal((mean - trained) / deviation, std / deviation, 1.0))

    @override
    def extra_repr(self) -> str:
        return f"weights={self.weights!r}, std={self.std}, relative={self.relative}"


@cache
def _legendre() -> tuple[Sequence[float], Sequence[float]]:
    """Nodes in (-1, 1) and their weights, which add up to 2."""
    nodes, weights = np.polynomial.legendre.leggauss(_NUM_NODES)
    return nodes.tolist(), weights.tolist()


class _MeanSoftplus(torch.autograd.Function):
    """The sum over entries of E softplus(offset - slope w²) for w ~ N(mean, std²); it keeps no nodes.

    The gradients are those of the expectation, E f'(w) and E f'(w) (w - mean) / std, by the same nodes.
    """

    @staticmethod
    @override
    def forward(ctx: Any, mean: Tensor, std: Tensor, offset: float, slope: float) -> Tensor:
        reach = math.sqrt(max(offset + _MOST_EXPONENT, 0.0) / slope) if slope > 0 else math.inf
        low = (mean - _MOST_DEVIATIONS * std).clamp_min(-reach)
        high = (mean + _MOST_DEVIATIONS * std).clamp_max(reach)
        half, middle = (0.5 * (high - low)).clamp_min_(0.0), 0.5 * (high + low)
        std = std.clamp_min(torch.finfo(std.dtype).tiny)
        density = half / (std * ROOT_TWO_PI)
        total, by_mean, by_std = (torch.zeros_like(mean) for _ in range(3))
        for node, weight in zip(*_legendre(), strict=True):
            w = torch.add(middle, half, alpha=node)
            z = (w - mean) / std
            share = torch.exp(-0.5 * z * z).mul_(density).mul_(weight)
            height = offset - slope * w * w
            total.addcmul_(share, F.softplus(height))
            change = share.mul_(torch.sigmoid(height)).mul_(w).mul_(-2 * slope)
            by_mean.add_(change)
            by_std.addcmul_(change, z)
        ctx.save_for_backward(by_mean, by_std)
        return total.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_mean, by_std = ctx.saved_tensors
        return upstream * by_mean, upstream * by_std, None, None
