"""Convolutions with random kernels, over one or two dimensions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.bayes.estimators import BlockwiseMap, draw, estimator_of
from withstand.bayes.layer import Drawing, VariationalLayer
from withstand.bayes.posterior import Posterior

__all__ = ["Conv1d", "Conv2d"]


class Conv1d(VariationalLayer, nn.Conv1d):
    """``torch.nn.Conv1d`` whose kernel and bias are normal variables.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps.
        posterior: Of kernel and bias.
        **options: Those of ``torch.nn.Conv1d``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int],
        *,
        posterior: Posterior = Posterior(),
        **options: Any,
    ) -> None:
        nn.Conv1d.__init__(self, in_channels, out_channels, kernel_size, **options)
        self.make_random(posterior)

    @override
    def draw(self, x: Tensor, how: Drawing) -> Tensor:
        return draw(_Kernel(self), estimator_of(self.posterior, "flipout"), x, self.normals(), how)


class Conv2d(VariationalLayer, nn.Conv2d):
    """``torch.nn.Conv2d`` whose kernel and bias are normal variables.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps.
        posterior: Of kernel and bias.
        **options: Those of ``torch.nn.Conv2d``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        posterior: Posterior = Posterior(),
        **options: Any,
    ) -> None:
        nn.Conv2d.__init__(self, in_channels, out_channels, kernel_size, **options)
        self.make_random(posterior)

    @override
    def draw(self, x: Tensor, how: Drawing) -> Tensor:
        return draw(_Kernel(self), estimator_of(self.posterior, "flipout"), x, self.normals(), how)


class _Kernel(BlockwiseMap):
    """What a convolution does with a kernel.

    Args:
        layer: Tells stride, padding, dilation and groups.
    """

    def __init__(self, layer: nn.Conv1d | nn.Conv2d) -> None:
        self._layer = layer

    @override
    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padded: Tensor = self._layer._conv_forward(x, weight, bias)
        return padded

    @override
    def apply_blocks(self, x: Tensor, weights: Tensor) -> Tensor:
        # One convolution a block: as groups of channels of a single one they would first be reordered.
        blocks = x.chunk(len(weights))
        return torch.cat(
            [self.apply(block, weight, None) for block, weight in zip(blocks, weights, strict=True)]
        )

    @property
    @override
    def channel_dim(self) -> int:
        return 1
