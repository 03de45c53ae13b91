"""Additive Gaussian noise: white, or blurred so that neighbouring pixels share it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from withstand.core.batch_shares import filled
from withstand.core.schedules import scheduled
from withstand.core.setting_rules import AT_LEAST_0, list_of, settle
from withstand.types import DataError

_LEFT_OUT = 1e-4  # share of a blurred noise's variance along one dimension that its factors may lack


def one_or_a_channel(name: str, value: Any) -> Any:
    """The rule (``core.setting_rules``) of deviations: one or a schedule for all, or one a channel."""
    is_several = (
        isinstance(value, Iterable) and not isinstance(value, str) and getattr(value, "shape", 1) != ()
    )
    return list_of(AT_LEAST_0)(name, value) if is_several else scheduled(AT_LEAST_0)(name, value)


@dataclass(frozen=True)
class GaussianNoise:
    """Normal noise of mean 0, drawn for each image by itself and added to it without clipping.

    Args:
        std: Of each pixel, in [0, 1] units: one for all channels, or one a channel.
        blur: Width (standard deviation, in pixels) of the Gaussian filter through which white noise is
            seen; the noise is brought back to ``std`` at every pixel. 0 leaves it white.

    Raises:
        ValueError: a number is negative or not finite, or there is no channel.
    """

    std: float | Sequence[float]
    blur: float = 0.0

    def __post_init__(self) -> None:
        settle(self, std=lambda _, std: one_or_a_channel("noise_std", std), blur=AT_LEAST_0)

    def std_like(self, images: Tensor) -> Tensor:
        """The deviation of each pixel.

        Args:
            images: Tensor (batch, channels, …); of any shape where one deviation serves all.

        Returns:
            Tensor (1, …) that broadcasts to the images.

        Raises:
            DataError: there are neither as many deviations as channels nor one.
        """
        if isinstance(self.std, int | float):
            return images.new_full((1,) * images.dim(), self.std)
        if images.dim() < 2 or images.shape[1] != len(self.std):
            raise DataError(
                f"noise_std has one value for each of {len(self.std)} channels, but the images are "
                f"{tuple(images.shape)}. Give one number, or one a channel."
            )
        # Not one tensor of a list, for which an accelerator would be waited for.
        stds = torch.stack([images.new_full((), std) for std in self.std])
        return stds.reshape(1, -1, *[1] * (images.dim() - 2))

    def draw(self, images: Tensor) -> Tensor:
        """Noise for a batch, from torch's global generator.

        Args:
            images: Tensor (batch, …).

        Returns:
            A tensor like them.
        """
        return self._coloured(filled(images, Tensor.normal_))

    def _coloured(self, noise: Tensor) -> Tensor:
        """White noise (batch, …) of deviation 1, as this noise is."""
        if self.blur:
            self._require_neighbours(noise)
            for dim in range(2, noise.dim()):
                filter_ = _filter(noise.shape[dim], self.blur, noise.dtype, noise.device)
                noise = torch.tensordot(noise, filter_, dims=([dim], [1])).movedim(-1, dim)
        return noise * self.std_like(noise)

    def _require_neighbours(self, images: Tensor) -> None:
        if images.dim() < 3:
            raise DataError(
                f"Noise is blurred over neighbouring pixels or steps, but vectors {tuple(images.shape)} have "
                "none. Take blur=0."
            )

    def random_factors(self, images: Tensor, count: int) -> Tensor:
        """Draws whose squares, and products, add up to the noise's covariance on average.

        Args:
            images: Tensor (batch, …), of which only the shape counts.
            count: How many, at least 1.

        Returns:
            Tensor (count, *shape of an image).
        """
        white = torch.randn(count, *images.shape[1:], dtype=images.dtype, device=images.device)
        return self._coloured(white) / math.sqrt(count)

    def rank(self, images: Tensor) -> int:
        """How many factors it is made of, without making them."""
        sides = (len(_components(side, self.blur)) if self.blur else side for side in images.shape[2:])
        return int(images.shape[1]) * math.prod(sides)

    def factors(self, images: Tensor) -> Tensor:
        """What blurred noise is made of: Σ_r factors[r] · z_r for independent standard normal z_r.

        Along each dimension the principal components are kept that make up all but 1e-4 of the variance.

        Args:
            images: Tensor (batch, channels, …).

        Returns:
            Tensor (rank, *shape of an image); with blur 0 one factor for each pixel.
        """
        if self.blur:
            self._require_neighbours(images)
        make = _factors if self.blur else _factors.__wrapped__  # those of white noise are too large to keep
        return make(tuple(images.shape[1:]), self.blur, images.dtype, images.device) * self.std_like(images)


def gaussian_filter(size: int, std: float, *, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Matrix (size, size) of Gaussian weights along one axis.

    Rows have length 1, so that white noise keeps its variance at every pixel: also near a border, where there
    is less to average.

    Args:
        size: Pixels along the axis.
        std: Of the Gaussian in pixels, positive.
        dtype: Of the matrix, and of what it is computed in.
        device: Of the matrix.
    """
    places = torch.arange(size, dtype=dtype, device=device)
    weights = torch.exp(-((places[:, None] - places) ** 2) / (2 * std**2))
    return F.normalize(weights, dim=1)


def _rows(side: int, blur: float) -> Tensor:
    if not blur:
        return torch.eye(side, dtype=torch.float64)
    return gaussian_filter(side, blur, dtype=torch.float64, device="cpu")


def _components(side: int, blur: float) -> Tensor:
    """The principal components of noise along one dimension, (rank, side), the largest first."""
    directions, lengths, _ = torch.linalg.svd(_rows(side, blur))
    left_out = 1 - lengths.square().cumsum(0) / side
    rank = int((left_out > _LEFT_OUT).sum()) + 1
    components: Tensor = directions * lengths
    return components[:, :rank].T


# Both are cached on the device, so that no step copies them there.


@cache
def _filter(side: int, blur: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return _rows(side, blur).to(device, dtype)


@lru_cache(maxsize=4)
def _factors(shape: tuple[int, ...], blur: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    channels, *sides = shape
    with torch.inference_mode(False):
        factors = torch.eye(channels, dtype=torch.float64)
        for side in sides:
            factors = torch.einsum("r...,sx->rs...x", factors, _components(side, blur)).flatten(0, 1)
        return factors.to(device, dtype)
