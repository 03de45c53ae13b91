"""How a linear layer with normal weights draws its output: three estimators of the same expectation.

Rows of a batch are ordered by sample: with S weight samples, row s * batch + i is example i under sample s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from withstand.bayes.layer import Drawing
from withstand.bayes.posterior import Estimator, Normal, Posterior
from withstand.core.batch_shares import filled
from withstand.types import ModelError


class BlockwiseMap(ABC):
    """The interface of what a layer does with a weight: a linear map of its input."""

    @abstractmethod
    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The map with one weight for all rows.

        Args:
            x: Tensor (rows, …).
            weight: Of the layer's shape.
            bias: (out,), or None.

        Returns:
            Tensor (rows, …).
        """

    @abstractmethod
    def apply_blocks(self, x: Tensor, weights: Tensor) -> Tensor:
        """The map with a weight of its own for each block of rows, without bias.

        Args:
            x: Tensor (samples * batch, …).
            weights: (samples, …), each of the layer's shape.

        Returns:
            Tensor (samples * batch, …).
        """

    @property
    @abstractmethod
    def channel_dim(self) -> int:
        """The dimension of the channels in input and output: 1, or -1."""


def draw_locally(maps: BlockwiseMap, x: Tensor, weight: Normal, bias: Normal | None, how: Drawing) -> Tensor:
    """Local reparametrisation: each output is normal, with the mean and the variance that x gives it.

    Kingma, Salimans and Welling, NeurIPS 2015, eq. 6. Where all samples still see the same input, mean and
    variance are computed once.

    Args:
        maps: What the layer does.
        x: Tensor (samples * batch, …).
        weight: Of the layer's shape.
        bias: (out,), or None.
        how: How many samples the rows hold.
    """
    alike = how.are_alike()
    rows = x[: len(x) // how.num_samples] if alike else x
    mean = maps.apply(rows, weight.mean, None if bias is None else bias.mean)
    variance = maps.apply(rows.square(), weight.std.square(), None if bias is None else bias.std.square())
    std = root(variance)
    if not alike:
        return torch.addcmul(mean, std, filled(mean, Tensor.normal_))
    noise = filled(mean.new_empty(how.num_samples * len(mean), *mean.shape[1:]), Tensor.normal_)
    return torch.addcmul(mean, std, noise.view(how.num_samples, *mean.shape)).flatten(0, 1)


def draw_flipout(maps: BlockwiseMap, x: Tensor, weight: Normal, bias: Normal | None, how: Drawing) -> Tensor:
    """Flipout: one deviation of the weight a sample, with random signs of its inputs and outputs an example.

    Wen, Vicol, Ba, Tran and Grosse, ICLR 2018, eq. 4. The bias is drawn for each example.
    Arguments as of ``draw_locally``.
    """
    samples = how.num_samples
    alike = how.are_alike()
    rows = x[: len(x) // samples] if alike else x
    mean = maps.apply(rows, weight.mean, None if bias is None else bias.mean)
    if alike:
        mean = mean.repeat(samples, *[1] * (mean.dim() - 1))
    deviations = _deviations(weight.std, samples)
    signed = maps.apply_blocks(x * _signs(x, maps.channel_dim), deviations)
    drawn = torch.addcmul(mean, signed, _signs(signed, maps.channel_dim))
    if bias is None:
        return drawn
    noise = filled(drawn.new_empty(len(x), len(bias.std)), Tensor.normal_)
    return drawn + _along(noise * bias.std, drawn, maps.channel_dim)


def draw_shared(maps: BlockwiseMap, x: Tensor, weight: Normal, bias: Normal | None, how: Drawing) -> Tensor:
    """One draw of weight and bias a sample, which its examples share; arguments as of ``draw_locally``."""
    samples = how.num_samples
    weights = weight.mean + _deviations(weight.std, samples)
    shift = None if bias is None else bias.mean + _deviations(bias.std, samples)
    if samples == 1:
        return maps.apply(x, weights[0], None if shift is None else shift[0])
    drawn = maps.apply_blocks(x, weights)
    if shift is None:
        return drawn
    rows = shift.repeat_interleave(len(x) // samples, dim=0)
    return drawn + _along(rows, drawn, maps.channel_dim)


def root(variance: Tensor) -> Tensor:
    """The square root, 0 with gradient 0 where there is no variance."""
    is_positive = variance > 0
    return torch.where(is_positive, torch.where(is_positive, variance, 1.0).sqrt(), 0.0)


def _deviations(std: Tensor, samples: int) -> Tensor:
    return std * torch.randn(samples, *std.shape, dtype=std.dtype, device=std.device)


def _signs(x: Tensor, channel_dim: int) -> Tensor:
    """±1 for each row and channel, broadcasting to ``x``."""
    drawn = filled(x.new_empty(len(x), x.shape[channel_dim]), lambda signs: signs.bernoulli_(0.5))
    return _along(drawn.mul(2).sub(1), x, channel_dim)


def _along(values: Tensor, like: Tensor, channel_dim: int) -> Tensor:
    """(rows, channels), brought to broadcast to ``like``."""
    rows, channels = values.shape
    ones = [1] * (like.dim() - 2)
    return values.reshape([rows, channels, *ones] if channel_dim == 1 else [rows, *ones, channels])


_ESTIMATORS: dict[Estimator, Callable[..., Tensor]] = {
    "local": draw_locally,
    "flipout": draw_flipout,
    "shared": draw_shared,
}


def estimator_of(posterior: Posterior, exact: Estimator) -> Estimator:
    """The estimator of a layer: the one asked for, else the one that is exact for it."""
    return exact if posterior.estimator == "auto" else posterior.estimator


def draw(
    maps: BlockwiseMap, estimator: Estimator, x: Tensor, normals: Mapping[str, Normal], how: Drawing
) -> Tensor:
    """The output of a layer under random weights.

    Args:
        maps: What the layer does.
        estimator: By which the draw is made.
        x: Tensor (samples * batch, …).
        normals: ``weight``, and ``bias`` where there is one.
        how: How many samples the whole batch holds.

    Raises:
        ModelError: the input has no batch dimension.
    """
    weight = normals["weight"].mean
    if x.dim() < weight.dim():
        raise ModelError(
            f"A layer with random weights takes batches, tensors of at least {weight.dim()} dimensions, "
            f"but got shape {tuple(x.shape)}. Put the batch first."
        )
    return _ESTIMATORS[estimator](maps, x, normals["weight"], normals.get("bias"), how.of_rows(len(x)))
