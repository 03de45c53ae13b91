"""Batch normalisation as the affine map that it is once its statistics are known."""

from __future__ import annotations

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from withstand.domains.sizes import on_channels

__all__ = ["batch_norm_factors"]


def batch_norm_factors(layer: _BatchNorm, like: Tensor) -> tuple[Tensor, Tensor]:
    """By what a BatchNorm multiplies, and what it adds, as it stands: ``scale * x + bias``.

    Args:
        layer: In train mode, or without running statistics, it goes by those of ``like``.
        like: What it is called with, (batch, channels, …).

    Returns:
        Two tensors that broadcast to one example.
    """
    rank = like.dim() - 2
    if layer.training or layer.running_mean is None or layer.running_var is None:
        dims = [0, *range(2, rank + 2)]
        mean, variance = like.mean(dims), like.var(dims, unbiased=False)
    else:
        mean, variance = layer.running_mean, layer.running_var
    scale = (variance + layer.eps).rsqrt()
    if layer.weight is not None:
        scale = scale * layer.weight
    bias = -mean * scale if layer.bias is None else layer.bias - mean * scale
    return on_channels(scale, rank), on_channels(bias, rank)
