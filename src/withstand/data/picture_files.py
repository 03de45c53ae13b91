"""Picture files (JPEG, PNG, …) to uint8 tensors, decoded by several threads."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from withstand.types import DataError

# Pictures a thread decodes at a time: handing over each alone costs as much as a small JPEG.
_CHUNK = 256
_MAX_THREADS = 8


class Picture(NamedTuple):
    """A picture file, on disk or already in memory.

    Attributes:
        name: What errors call it.
        content: Its path, or its bytes.
    """

    name: str
    content: Path | bytes


@dataclass(frozen=True)
class Form:
    """What every picture of a data set is turned into.

    Attributes:
        mode: Pillow's mode: ``L`` (grey) or ``RGB``.
        width: In pixels.
        height: In pixels.
        resize: Whether other sizes are resized and cropped; otherwise they are an error.
    """

    mode: str
    width: int
    height: int
    resize: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return (1 if self.mode == "L" else 3, self.height, self.width)


def form_of(picture: Picture, size: int | None = None) -> Form:
    """The form that the first picture of a data set sets for all.

    Args:
        picture: The first picture: grey if it is grey, in colour otherwise.
        size: Side in pixels that all are resized to; by default the picture's own size, which
            all others must have.

    Raises:
        DataError: the picture cannot be read or ``size`` is not positive.
    """
    if size is not None and size < 1:
        raise DataError(f"size must be at least 1 pixel, but is {size}.")
    image = _open(picture)
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    width, height = image.size if size is None else (size, size)
    return Form(mode, width, height, resize=size is not None)


def decode(pictures: Sequence[Picture], form: Form) -> Tensor:
    """Decodes pictures.

    Args:
        pictures: At least one.
        form: What to turn each into. Resizing keeps the proportions: the shorter side fits and
            the longer one is cropped at both ends.

    Returns:
        uint8 tensor (pictures, channels, height, width).

    Raises:
        DataError: a picture cannot be read, has 16 bits a channel, or differs in size.
    """
    pixels = np.empty((len(pictures), *form.shape), np.uint8)

    def fill(start: int) -> None:
        for index in range(start, min(start + _CHUNK, len(pictures))):
            values = np.asarray(_fit(pictures[index], form))
            pixels[index] = values.reshape(form.height, form.width, -1).transpose(2, 0, 1)

    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as threads:
        # The list waits for all and raises the first error.
        list(threads.map(fill, range(0, len(pictures), _CHUNK)))
    return torch.from_numpy(pixels)


def _fit(picture: Picture, form: Form) -> Image.Image:
    image, size = _open(picture), (form.width, form.height)
    if form.resize:
        return ImageOps.fit(image.convert(form.mode), size, Image.Resampling.BICUBIC)
    if image.size != size:
        raise DataError(
            f"The picture {picture.name} is {image.width} x {image.height} pixels, but the first is "
            f"{form.width} x {form.height}. Name a `size` to resize and crop all to size x size pixels."
        )
    return image.convert(form.mode)


def _open(picture: Picture) -> Image.Image:
    """The decoded picture, turned upright."""
    content = io.BytesIO(picture.content) if isinstance(picture.content, bytes) else picture.content
    try:
        with Image.open(content) as image:
            upright = ImageOps.exif_transpose(image)
            upright.load()
    # Pillow reports damage in many ways, a broken PNG even as a SyntaxError.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(
            f"The picture {picture.name} cannot be read: {error}. Delete it or replace it by a sound copy."
        ) from error
    if upright.mode.startswith(("I", "F")):
        raise DataError(
            f"The picture {picture.name} has more than 8 bits a channel (mode {upright.mode}), "
            "which would be cut off. Convert it to 8 bits."
        )
    return upright
