"""Linear layers and convolutions, transposed ones included, with random weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from typing_extensions import override

from withstand.bayes.estimators import BlockwiseMap, draw, estimator_of
from withstand.bayes.layer import Drawing, VariationalLayer
from withstand.bayes.posterior import Estimator


class Linear(VariationalLayer, nn.Linear):
    """``torch.nn.Linear`` whose weight and bias are normal variables.

    Args:
        in_features: Size of each input.
        out_features: Size of each output.
        bias: Whether there is a bias, random too.
        posterior: Of weight and bias.
        **options: ``device`` and ``dtype``, as of ``torch.nn.Linear``.
    """

    @override
    def draw(self, how: Drawing, input: Tensor) -> Tensor:
        # Several vectors an example meet the same weight, which independent outputs would deny.
        exact: Estimator = "local" if input.dim() == 2 else "flipout"
        return draw(_MATRIX, estimator_of(self.posterior, exact), input, self.normals(), how)


class _Matrix(BlockwiseMap):
    channel_dim = -1

    @override
    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    @override
    def apply_blocks(self, x: Tensor, weights: Tensor) -> Tensor:
        blocks = x.reshape(len(weights), -1, x.shape[-1])
        return torch.bmm(blocks, weights.mT).reshape(*x.shape[:-1], weights.shape[1])


_MATRIX = _Matrix()


class _Convolution(VariationalLayer, _ConvNd):
    """What convolutions over any number of dimensions draw."""

    @override
    def draw(self, how: Drawing, input: Tensor) -> Tensor:
        return draw(_Kernel(self), estimator_of(self.posterior, "flipout"), input, self.normals(), how)


class Conv1d(_Convolution, nn.Conv1d):
    """``torch.nn.Conv1d`` whose kernel and bias are normal variables.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps.
        posterior: Of kernel and bias.
        **options: Those of ``torch.nn.Conv1d``.
    """


class Conv2d(_Convolution, nn.Conv2d):
    """``torch.nn.Conv2d`` whose kernel and bias are normal variables.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps.
        posterior: Of kernel and bias.
        **options: Those of ``torch.nn.Conv2d``.
    """


class Conv3d(_Convolution, nn.Conv3d):
    """``torch.nn.Conv3d`` whose kernel and bias are normal variables.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps.
        posterior: Of kernel and bias.
        **options: Those of ``torch.nn.Conv3d``.
    """


class _TransposedConvolution(VariationalLayer, _ConvTransposeNd):
    """What transposed convolutions over any number of dimensions draw."""

    @override
    def draw(self, how: Drawing, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        kernel = _TransposedKernel(self, output_size)
        return draw(kernel, estimator_of(self.posterior, "flipout"), input, self.normals(), how)


class ConvTranspose1d(_TransposedConvolution, nn.ConvTranspose1d):
    """``torch.nn.ConvTranspose1d`` whose kernel and bias are normal variables.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps.
        posterior: Of kernel and bias.
        **options: Those of ``torch.nn.ConvTranspose1d``.
    """


class ConvTranspose2d(_TransposedConvolution, nn.ConvTranspose2d):
    """``torch.nn.ConvTranspose2d`` whose kernel and bias are normal variables.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps.
        posterior: Of kernel and bias.
        **options: Those of ``torch.nn.ConvTranspose2d``.
    """


class ConvTranspose3d(_TransposedConvolution, nn.ConvTranspose3d):
    """``torch.nn.ConvTranspose3d`` whose kernel and bias are normal variables.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps.
        posterior: Of kernel and bias.
        **options: Those of ``torch.nn.ConvTranspose3d``.
    """


class _Kernel(BlockwiseMap):
    """What a convolution does with a kernel.

    Args:
        layer: Tells stride, padding, dilation and groups.
    """

    channel_dim = 1

    def __init__(self, layer: _ConvNd) -> None:
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


class _TransposedKernel(_Kernel):
    """What a transposed convolution does with a kernel.

    Args:
        layer: Tells stride, padding, dilation and groups.
        output_size: As of torch's layer.
    """

    def __init__(self, layer: _ConvTransposeNd, output_size: Sequence[int] | None) -> None:
        super().__init__(layer)
        self._transposed = layer
        self._output_size = None if output_size is None else list(output_size)

    @override
    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        layer, dims = self._transposed, weight.dim() - 2
        stride, padding, dilation = [*layer.stride], [*map(int, layer.padding)], [*layer.dilation]
        sizes = stride, padding, [*layer.kernel_size], dims, dilation
        added = layer._output_padding(x, self._output_size, *sizes)
        convolve = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[dims]
        return convolve(x, weight, bias, stride, padding, added, layer.groups, dilation)
