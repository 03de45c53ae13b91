"""Noise of counters and of broken pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from withstand.corruptions.base import Corruption

__all__ = ["ImpulseNoise", "ShotNoise"]


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
