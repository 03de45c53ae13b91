"""Means and standard deviations measured from images."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["channel_statistics"]


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in [0, 1] units.

    Args:
        images: uint8 tensor (examples, channels, height, width), at least one example.

    Returns:
        Means and stds, one a channel. A std is at least 1/255, so that dividing by it is safe
        for a channel that never changes.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    # Counts of 256 levels give both exactly, without a copy of the images as floats.
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)])
    shares = counts.cpu().to(torch.float64) / counts.cpu().sum(1, keepdim=True)
    means = shares @ levels
    variances = (shares * (levels - means[:, None]).square()).sum(1)
    return tuple(means.tolist()), tuple(variances.sqrt().clamp(min=1 / 255).tolist())
