"""Images out of focus, in other light, with noise of counters and of broken pixels, turned and moved.

Where images are turned or moved, pixels between pixels are interpolated bilinearly. Beyond the border an
image goes on as its nearest pixel there, so that nothing black comes in but where the border is black.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from withstand.corruptions.corruption import Corruption


class GaussianBlur(Corruption):
    """Every pixel becomes a mean of those around it, weighted by the mass of a normal distribution over each.

    Beyond the border the image goes on as its last pixel. The kernel is not cut off.
    """

    name = "gaussian-blur"
    title = "Gaussian blur"
    parameter = "standard deviation, share of the shorter side"
    values = (0.0125, 0.02, 0.0275, 0.0375, 0.05)

    @override
    def _corrupt(self, images: Tensor, value: float, generator: torch.Generator) -> Tensor:
        height, width = images.shape[2:]
        std = value * min(height, width)
        return _means(height, std, images) @ images @ _means(width, std, images).T


def _means(size: int, std: float, like: Tensor) -> Tensor:
    """The matrix (size, size) that blurs a line; all mass beyond an end is on the last pixel there."""
    centres = torch.arange(size, dtype=like.dtype, device=like.device)
    below = torch.special.ndtr((centres[:-1] + 0.5 - centres[:, None]) / std)  # a pixel's upper edge
    return F.pad(F.pad(below, (1, 0), value=0.0), (0, 1), value=1.0).diff(dim=1)


class Brightness(Corruption):
    """The same is added to every pixel and channel; what becomes brighter than white is white."""

    name = "brightness"
    title = "Brightness"
    parameter = "added to every pixel"
    values = (0.1, 0.2, 0.3, 0.4, 0.5)

    @override
    def _corrupt(self, images: Tensor, value: float, generator: torch.Generator) -> Tensor:
        return images + value


class Contrast(Corruption):
    """Every pixel moves towards the mean of its image and channel."""

    name = "contrast"
    title = "Contrast"
    parameter = "factor on the difference from the image's mean"
    values = (0.75, 0.5, 0.4, 0.3, 0.15)

    @override
    def _corrupt(self, images: Tensor, value: float, generator: torch.Generator) -> Tensor:
        mean = images.mean(dim=(2, 3), keepdim=True)
        return mean + value * (images - mean)


class ShotNoise(Corruption):
    """Every pixel and channel is counted in photons, whose number is Poisson; black stays black."""

    name = "shot-noise"
    title = "Shot noise"
    parameter = "mean number of photons at white"
    values = (100.0, 50.0, 25.0, 12.0, 6.0)

    @override
    def _corrupt(self, images: Tensor, value: float, generator: torch.Generator) -> Tensor:
        return torch.poisson(images * value, generator=generator) / value


class ImpulseNoise(Corruption):
    """Salt and pepper: some pixels, each channel by itself, become black or white, either as likely."""

    name = "impulse-noise"
    title = "Impulse noise"
    parameter = "share of pixels turned black or white"
    values = (0.03, 0.06, 0.09, 0.17, 0.27)

    @override
    def _corrupt(self, images: Tensor, value: float, generator: torch.Generator) -> Tensor:
        # The same draws in whatever memory format the images lie.
        chance = torch.empty_like(images, memory_format=torch.contiguous_format).uniform_(generator=generator)
        is_salt = chance >= 1 - value / 2
        return images.masked_fill(chance < value / 2, 0.0).masked_fill(is_salt, 1.0)


class Rotation(Corruption):
    """Each image turns around its middle, to the left or to the right."""

    name = "rotation"
    title = "Rotation"
    parameter = "degrees, either way"
    values = (4.0, 8.0, 12.0, 16.0, 20.0)

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


class Translation(Corruption):
    """Each image moves along both axes, by the same share of each side; forth or back, drawn for either."""

    name = "translation"
    title = "Translation"
    parameter = "shift along both axes, share of the side"
    values = (0.025, 0.05, 0.075, 0.1, 0.15)

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
