"""Images turned and moved; pixels between pixels are interpolated bilinearly.

Beyond the border an image goes on as its nearest pixel there, so that nothing black comes in but where the
border is black.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from withstand.corruptions.base import Corruption

__all__ = ["Rotation", "Translation"]


@final
@dataclass(frozen=True)
class Rotation(Corruption):
    """Each image turns around its middle, to the left or to the right."""

    name: ClassVar[str] = "rotation"
    title: ClassVar[str] = "Rotation"
    parameter: ClassVar[str] = "degrees, either way"
    values: ClassVar[tuple[float, float, float, float, float]] = (4.0, 8.0, 12.0, 16.0, 20.0)

    @override
    def _corrupt(self, images: Tensor, value: float, generator: torch.Generator) -> Tensor:
        height, width = images.shape[2:]
        angle = math.radians(value)
        sine = math.sin(angle) * _signs(images, 1, generator)[:, 0]
        cosine, zero = torch.full_like(sine, math.cos(angle)), torch.zeros_like(sine)
        # Coordinates run from -1 to 1 along either side, so that sides of different length skew them.
        across = torch.stack([cosine, -sine * (height / width), zero], dim=1)
        down = torch.stack([sine * (width / height), cosine, zero], dim=1)
        return _moved(images, torch.stack([across, down], dim=1))


@final
@dataclass(frozen=True)
class Translation(Corruption):
    """Each image moves along both axes, by the same share of each side; forth or back, drawn for either."""

    name: ClassVar[str] = "translation"
    title: ClassVar[str] = "Translation"
    parameter: ClassVar[str] = "shift along both axes, share of the side"
    values: ClassVar[tuple[float, float, float, float, float]] = (0.025, 0.05, 0.075, 0.1, 0.15)

    @override
    def _corrupt(self, images: Tensor, value: float, generator: torch.Generator) -> Tensor:
        shift = 2 * value * _signs(images, 2, generator)  # of sides that run from -1 to 1
        unmoved = torch.eye(2, dtype=images.dtype, device=images.device).expand(len(images), 2, 2)
        return _moved(images, torch.cat([unmoved, shift[:, :, None]], dim=2))


def _signs(images: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """So many of -1 and 1 for each image: (batch, number)."""
    shape = (len(images), number)
    bits = torch.randint(0, 2, shape, generator=generator, device=images.device)
    return 2 * bits.to(images.dtype) - 1


def _moved(images: Tensor, sources: Tensor) -> Tensor:
    """Images whose pixels come from where an affine map (batch, 2, 3) leads."""
    grid = F.affine_grid(sources, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
