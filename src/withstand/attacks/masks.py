"""Which pixels an attack may change, where it may not change all of them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from withstand.core.setting_rules import COUNT, Whole, instance_of, list_of, settle
from withstand.types import DataError

_INDEX = Whole(least=0)


@dataclass(frozen=True)
class Mask(ABC):
    """Some pixels of an image; one of your own is a frozen dataclass with ``pixels`` and ``name``."""

    @abstractmethod
    def pixels(self, images: Tensor) -> Tensor:
        """Which pixels may change.

        Args:
            images: Tensor (batch, …), whose shape and device it is for.

        Returns:
            Bool tensor (1, …) of the shape of one image.

        Raises:
            DataError: the mask does not fit the images.
        """

    @property
    @abstractmethod
    def name(self) -> str:
        """A short name of lower-case letters, digits and hyphens: ``patch-5x5-at-0-0``."""


a_mask = instance_of(Mask, "a mask, such as attacks.Patch(top=0, left=0, height=5, width=5)")


@dataclass(frozen=True)
class Patch(Mask):
    """A rectangle of an image, in all its channels.

    Args:
        top: The first row, from 0.
        left: The first column, from 0.
        height: Rows.
        width: Columns.

    Raises:
        ValueError: a number is out of its range.
    """

    top: int
    left: int
    height: int
    width: int

    def __post_init__(self) -> None:
        settle(self, top=_INDEX, left=_INDEX, height=COUNT, width=COUNT)

    @override
    def pixels(self, images: Tensor) -> Tensor:
        bottom, right = self.top + self.height, self.left + self.width
        if images.dim() < 3 or bottom > images.shape[-2] or right > images.shape[-1]:
            raise DataError(
                f"Expected images of at least {bottom} rows and {right} columns for the mask {self.name}, "
                f"but got {tuple(images.shape[1:])}."
            )
        mask = _no_pixels(images)
        mask[..., self.top : bottom, self.left : right] = True
        return mask

    @property
    @override
    def name(self) -> str:
        return f"patch-{self.height}x{self.width}-at-{self.top}-{self.left}"


@dataclass(frozen=True)
class Channels(Mask):
    """Some channels of an image, or some values of a vector.

    Args:
        channels: Their numbers, from 0.

    Raises:
        ValueError: there is none, or one is negative.
    """

    channels: Sequence[int]

    def __post_init__(self) -> None:
        settle(self, channels=list_of(_INDEX))
        object.__setattr__(self, "channels", tuple(self.channels))

    @override
    def pixels(self, images: Tensor) -> Tensor:
        if max(self.channels) >= images.shape[1]:
            raise DataError(
                f"Expected images of at least {max(self.channels) + 1} channels for the mask {self.name}, "
                f"but got {tuple(images.shape[1:])}."
            )
        mask = _no_pixels(images)
        for channel in self.channels:
            mask[:, channel] = True
        return mask

    @property
    @override
    def name(self) -> str:
        return f"channels-{'-'.join(str(channel) for channel in self.channels)}"


@dataclass(frozen=True, eq=False)
class Region(Mask):
    """Pixels in any arrangement.

    Args:
        allowed: An array or nested list, 1 where pixels may change and 0 elsewhere, of the shape of an image
            or of its last dimensions, such as (height, width) for all channels alike; or the path of such an
            array as ``numpy.save`` writes it, which is read here.

    Raises:
        DataError: the file cannot be read.
        ValueError: it is no array of zeros and ones, or no pixel may change.
    """

    allowed: Any

    def __post_init__(self) -> None:
        is_file = isinstance(self.allowed, str | Path)
        array = _read(Path(self.allowed)) if is_file else _as_array(self.allowed)
        if array.dtype.kind not in "biuf" or not array.ndim or not array.any():
            raise ValueError(
                "Expected allowed as an array in the shape of an image, with a 1 where a pixel may change, "
                f"at least one of them, but got {array.dtype} {array.shape}."
            )
        if others := array[(array != 0) & (array != 1)].tolist():
            raise ValueError(
                "Expected allowed with a 1 where a pixel may change and 0 elsewhere, but got an array with "
                f"{others[0]}."
            )
        object.__setattr__(self, "allowed", array != 0)

    @override
    def pixels(self, images: Tensor) -> Tensor:
        allowed = torch.tensor(self.allowed).to(images.device, non_blocking=True)
        if allowed.dim() >= images.dim() or allowed.shape != images.shape[images.dim() - allowed.dim() :]:
            raise DataError(
                f"Expected a mask of the shape of the images, {tuple(images.shape[1:])}, or of their last "
                f"dimensions, but got {tuple(allowed.shape)}."
            )
        return _no_pixels(images) | allowed

    @property
    @override
    def name(self) -> str:
        digest = hashlib.sha256(np.packbits(self.allowed).tobytes()).hexdigest()[:6]
        return f"region-{int(self.allowed.sum())}-{digest}"


def _no_pixels(images: Tensor) -> Tensor:
    """A mask (1, …) of images (batch, …) to be filled in."""
    return torch.zeros((1, *images.shape[1:]), dtype=torch.bool, device=images.device)


def _read(path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it holds several arrays, as numpy.savez writes them")
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise DataError(
            f'The mask {path} cannot be read: {error}. Write it by numpy.save("{path}", array).'
        ) from error
    return array


def _as_array(allowed: Any) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.asarray(allowed)
    except ValueError as error:
        raise ValueError(
            f"Expected allowed as an array in the shape of an image, but its rows are not alike: {error}"
        ) from error
    return array
