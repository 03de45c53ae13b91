"""Images in other light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from withstand.corruptions.base import Corruption

__all__ = ["Brightness", "Contrast"]


@final
@dataclass(frozen=True)
class Brightness(Corruption):
    """The same is added to every pixel and channel; what becomes brighter than white is white."""

    name: ClassVar[str] = "brightness"
    title: ClassVar[str] = "Brightness"
    parameter: ClassVar[str] = "added to every pixel"
    values: ClassVar[tuple[float, float, float, float, float]] = (0.1, 0.2, 0.3, 0.4, 0.5)

    @override
    def _corrupt(self, images: Tensor, value: float, generator: torch.Generator) -> Tensor:
        return images + value


@final
@dataclass(frozen=True)
class Contrast(Corruption):
    """Every pixel moves towards the mean of its image and channel."""

    name: ClassVar[str] = "contrast"
    title: ClassVar[str] = "Contrast"
    parameter: ClassVar[str] = "factor on the difference from the image's mean"
    values: ClassVar[tuple[float, float, float, float, float]] = (0.75, 0.5, 0.4, 0.3, 0.15)

    @override
    def _corrupt(self, images: Tensor, value: float, generator: torch.Generator) -> Tensor:
        mean = images.mean(dim=(2, 3), keepdim=True)
        return mean + value * (images - mean)
