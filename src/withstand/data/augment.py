"""Random crops and flips of a whole batch at once, on its device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from withstand.core.batch_shares import filled
from withstand.core.dataset_info import require_images
from withstand.core.setting_rules import Whole, flag, settle
from withstand.types import DataError

_WITHOUT = (
    "Leave it out (augment=None; --training.augment=null), or augment by a function of your own: "
    "TrainingSettings(augment=function)."
)


@dataclass(frozen=True)
class Augment:
    """A random crop after zero padding, then a horizontal flip of every second image on average.

    Each image of a batch draws its own crop and flip.

    Args:
        crop_padding: Pixels of zero padding on each side, so how far a crop can shift an image;
            0 crops nothing.
        flip: Whether images are flipped left to right, with probability 1/2.

    Raises:
        ValueError: ``crop_padding`` is negative.
    """

    crop_padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        settle(self, crop_padding=Whole(least=0), flip=flag)

    def require_fit(self, shape: Sequence[int]) -> None:
        """Accepts images that no crop can miss altogether.

        Args:
            shape: (channels, height, width).

        Raises:
            DataError: these are no images, or the padding is as large as an image, or larger.
        """
        require_images(shape, "Augment crops and flips", _WITHOUT)
        _, height, width = shape
        if self.crop_padding >= min(height, width):
            raise DataError(
                f"crop_padding={self.crop_padding} can crop whole images away: they have {height} x {width} "
                f"pixels. Choose a smaller one, such as {min(height, width) // 8}."
            )

    def __call__(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Augments a batch.

        Args:
            images: Tensor (batch, channels, height, width) of any type, on any device.
            generator: What to draw from, on the images' device; by default torch's global one.

        Returns:
            A tensor like ``images``; ``images`` itself where nothing is to be done.

        Raises:
            DataError: ``images`` has another number of axes, or is smaller than the padding.
        """
        require_images(images.shape[1:], "Augment crops and flips", _WITHOUT)
        if self.crop_padding > min(images.shape[2:]):
            raise DataError(
                f"Expected crop_padding of at most {min(images.shape[2:])} pixels, an image's side, but "
                f"got {self.crop_padding}: most crops would hold nothing but padding."
            )
        if self.crop_padding == 0 and not self.flip:
            return images
        rows, columns = self._draw(images, generator)
        padded = F.pad(images, (self.crop_padding,) * 4)
        # One gather over flattened pixels, the same pixels for every channel of an image.
        index = (rows[:, :, None] * padded.shape[3] + columns[:, None, :]).flatten(1)
        windows = padded.flatten(2).gather(2, index[:, None].expand(-1, images.shape[1], -1))
        return windows.view(images.shape)

    def _draw(self, images: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Which rows (batch, height) and columns (batch, width) of the padded images to take."""
        batch, _, height, width = images.shape
        device = images.device
        room = torch.empty(2 * batch, 1, dtype=torch.int64, device=device)
        stop = 2 * self.crop_padding + 1
        shift = filled(room, lambda rows: rows.random_(0, stop, generator=generator)).view(2, batch, 1)
        rows = shift[0] + torch.arange(height, device=device)
        columns = shift[1] + torch.arange(width, device=device)
        if self.flip:
            chances = filled(
                torch.empty(batch, 1, device=device), lambda rows: rows.uniform_(generator=generator)
            )
            flipped = chances < 0.5
            columns = torch.where(flipped, columns.flip(1), columns)
        return rows, columns
