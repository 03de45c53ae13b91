"""Images out of focus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from withstand.corruptions.base import Corruption

__all__ = ["GaussianBlur"]


@final
@dataclass(frozen=True)
class GaussianBlur(Corruption):
    """Every pixel becomes a mean of those around it, weighted by the mass of a normal law over each.

    Beyond the border the image goes on as its last pixel. The kernel is not cut off.
    """

    name: ClassVar[str] = "gaussian-blur"
    title: ClassVar[str] = "Gaussian blur"
    parameter: ClassVar[str] = "standard deviation, share of the shorter side"
    values: ClassVar[tuple[float, float, float, float, float]] = (0.0125, 0.02, 0.0275, 0.0375, 0.05)

    @override
    def _corrupt(self, images: Tensor, value: float, generator: torch.Generator) -> Tensor:
        height, width = images.shape[2:]
        std = value * min(height, width)
        return _means(height, std, images) @ images @ _means(width, std, images).T


def _means(size: int, std: float, like: Tensor) -> Tensor:
    """The matrix (size, size) that blurs a line; all mass beyond an end falls on the last pixel there."""
    centres = torch.arange(size, dtype=like.dtype, device=like.device)
    below = torch.special.ndtr((centres[:-1] + 0.5 - centres[:, None]) / std)  # a pixel's upper edge
    return F.pad(F.pad(below, (1, 0), value=0.0), (0, 1), value=1.0).diff(dim=1)
