"""Normalisation as a layer, so that whoever calls the model speaks in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.types import ModelError

__all__ = ["Normalize"]


class Normalize(nn.Module):
    """``(images - mean) / std``, channel by channel.

    Mean and deviation are buffers: they move with the model and are saved with its weights.
    With one channel any shape is taken; with more, images must end in (channels, height, width).

    Args:
        mean: Per channel, in the units of the images.
        std: Per channel, in the units of the images, positive.

    Raises:
        ModelError: there is no channel, the lengths differ, a value is not finite, or a
            deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        _require_statistics(mean, std)
        # One channel broadcasts over every shape; several need height and width behind them.
        shape = (1,) if len(mean) == 1 else (len(mean), 1, 1)
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32).reshape(shape))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32).reshape(shape))

    @override
    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    @override
    def extra_repr(self) -> str:
        if self.mean.is_meta:
            return f"channels={len(self.mean)}"
        return f"mean={_rounded(self.mean)}, std={_rounded(self.std)}"


def _require_statistics(mean: Sequence[float], std: Sequence[float]) -> None:
    if not len(mean) or len(mean) != len(std):
        raise ModelError(
            "Normalize needs as many means as deviations, and at least one, "
            f"but got mean {list(mean)} and std {list(std)}."
        )
    if not all(map(math.isfinite, mean)) or not all(0 < value < math.inf for value in std):
        raise ModelError(
            "Normalize needs finite means and positive finite deviations, "
            f"but got mean {list(mean)} and std {list(std)}."
        )


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.flatten().tolist()]
