"""Images out of focus, in other light, or with noise of counters and of broken pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from withstand.corruptions.base import Corruption

__all__ = ["Brightness", "Contrast", "GaussianBlur", "ImpulseNoise", "ShotNoise"]


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


@final
@dataclass(frozen=True)
class ShotNoise(Corruption):
    """Every pixel and channel is counted in photons, whose number has a Poisson law; black stays black."""

    name: ClassVar[str] = "shot-noise"
    title: ClassVar[str] = "Shot noise"
    parameter: ClassVar[str] = "mean number of photons at white"
    values: ClassVar[tuple[float, float, float, float, float]] = (100.0, 50.0, 25.0, 12.0, 6.0)

    @override
    def _corrupt(self, images: Tensor, value: float, generator: torch.Generator) -> Tensor:
        return torch.poisson(images * value, generator=generator) / value


@final
@dataclass(frozen=True)
class ImpulseNoise(Corruption):
    """Salt and pepper: some pixels, each channel by itself, become black or white, either as likely."""

    name: ClassVar[str] = "impulse-noise"
    title: ClassVar[str] = "Impulse noise"
    parameter: ClassVar[str] = "share of pixels turned black or white"
    values: ClassVar[tuple[float, float, float, float, float]] = (0.03, 0.06, 0.09, 0.17, 0.27)

    @override
    def _corrupt(self, images: Tensor, value: float, generator: torch.Generator) -> Tensor:
        chance = torch.empty_like(images).uniform_(generator=generator)
        is_salt = chance >= 1 - value / 2
        return images.masked_fill(chance < value / 2, 0.0).masked_fill(is_salt, 1.0)
