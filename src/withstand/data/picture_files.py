"""Picture files (JPEG, PNG, …) to uint8 tensors, decoded by several threads."""

from __future__ import annotations

import io
import logging
import math
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from withstand.data.mapped import filled, levels_of
from withstand.types import DataError

_log = logging.getLogger(__name__)

# What is taken for a picture, whatever its name ends in: Pillow knows more, some of which starts a program.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
MOST_PIXELS = 2**26  # of one picture, more than cameras take
# Pictures a thread decodes at a time: handing over each alone costs as much as a small JPEG.
_CHUNK = 256
_MAX_THREADS = 8
_FRAMES = "frames"  # a key of a picture's information that is added here
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)  # warnings may be errors


class Picture(NamedTuple):
    """A picture file, on disk or already in memory.

    Attributes:
        name: What errors call it.
        content: Its path, or its bytes; or what Pillow has opened.
    """

    name: str
    content: Path | bytes | Image.Image


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
        DataError: the picture cannot be read, is too large, or ``size`` is not positive.
    """
    if size is not None and size < 1:
        raise DataError(f"size must be at least 1 pixel, but is {size}.")
    image = _open(picture)
    mode = "L" if _is_grey(image) else "RGB"
    width, height = image.size if size is None else (size, size)
    return Form(mode, width, height, resize=size is not None)


def decode(
    pictures: Sequence[Picture], form: Form, *, say: Callable[..., None] = _log.warning, key: str = ""
) -> Tensor:
    """Decodes pictures: into memory, or where they do not fit into a file (``mapped.filled``).

    Args:
        pictures: At least one.
        form: What to turn each into. Resizing keeps the proportions: the shorter side fits and
            the longer one is cropped at both ends.
        say: Is told, as a logger is, what was made of pictures that are not of this form: transparent parts
            are laid on white, colour becomes grey where the form is, of moving pictures the first counts.
        key: Hex string that changes whenever the pictures do, by which such a file is known again.

    Returns:
        uint8 tensor (pictures, channels, height, width).

    Raises:
        DataError: a picture cannot be read, has 16 bits a channel, differs in size, or has more than
            ``MOST_PIXELS`` pixels; or all together fit neither into memory nor on disk.
    """
    fitting = Fitting(form)

    def fill(pixels: NDArray[np.uint8]) -> None:
        def fill_from(start: int) -> None:
            for index in range(start, min(start + _CHUNK, len(pictures))):
                pixels[index] = fitting.pixels(pictures[index])

        with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as threads:
            # The list waits for all and raises the first error.
            list(threads.map(fill_from, range(0, len(pictures), _CHUNK)))
        fitting.tell(say, len(pictures))

    return levels_of(filled((len(pictures), *form.shape), np.dtype(np.uint8), fill, what="pictures", key=key))


@dataclass(frozen=True)
class Fitting:
    """Brings pictures into a form, and remembers what was lost of which.

    Args:
        form: Of all.
    """

    form: Form
    _lost: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def pixels(self, picture: Picture) -> NDArray[np.uint8]:
        """Those of one picture in the form, (channels, height, width).

        Raises:
            DataError: it cannot be read, or differs in size.
        """
        form = self.form
        image = _open(picture, None if form.resize else (form.width, form.height))
        for change in _changes(image, form):
            self._lost[change].add(picture.name)
        return np.asarray(_fit(image, form)).reshape(form.height, form.width, -1).transpose(2, 0, 1)

    def tell(self, say: Callable[..., None], total: int) -> None:
        """Says what was lost, of how many pictures."""
        for change, names in sorted(self._lost.items()):
            say("%s of %s pictures, such as %s, %s.", f"{len(names):,}", f"{total:,}", min(names), change)


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA", "La")


def _has_alpha(image: Image.Image) -> bool:
    return "transparency" in image.info or image.mode.endswith(("A", "a"))


def _is_transparent(image: Image.Image) -> bool:
    """Whether any pixel is."""
    if not _has_alpha(image):
        return False
    return image.convert("RGBA").getchannel("A").histogram()[255] < math.prod(image.size)


def _changes(image: Image.Image, form: Form) -> list[str]:
    """What is lost of a picture in this form, in words that end a sentence."""
    changes = {
        "are transparent in parts, which are laid on white": _is_transparent(image),
        "are in colour, but the first picture is grey, so all are turned into grey": form.mode == "L"
        and not _is_grey(image),
        "are grey, but the first picture is in colour, so their three channels are equal": form.mode == "RGB"
        and _is_grey(image),
        "have the colours CMYK, which are turned into RGB without a colour profile": image.mode == "CMYK",
        "hold several pictures, of which the first is taken": image.info[_FRAMES] > 1,
    }
    return [words for words, is_so in changes.items() if is_so]


def _fit(image: Image.Image, form: Form) -> Image.Image:
    if _has_alpha(image):
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    plain = image.convert(form.mode)
    return ImageOps.fit(plain, (form.width, form.height), Image.Resampling.BICUBIC) if form.resize else plain


def _open(picture: Picture, size: tuple[int, int] | None = None) -> Image.Image:
    """The decoded picture, turned upright; of another size than ``size`` it is not decoded."""
    try:
        with _image(picture) as image:
            _require_plain(picture, image)
            if size is not None and image.size not in (size, size[::-1]):  # turned upright it may fit
                raise _other_size(picture, image.size, size)
            upright = ImageOps.exif_transpose(image)
            upright.load()
            upright.info[_FRAMES] = getattr(image, "n_frames", 1)
    # Pillow reports damage in many ways, a broken PNG even as a SyntaxError.
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(
            f"The picture {picture.name} cannot be read: it is none of {', '.join(_FORMATS)}, whatever its "
            "name ends in. Delete it or replace it by a sound copy."
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, *_BOMBS) as error:
        raise DataError(
            f"The picture {picture.name} cannot be read: {error}. Delete it or replace it by a sound copy."
        ) from error
    if size is not None and upright.size != size:
        raise _other_size(picture, upright.size, size)
    return upright


def _image(picture: Picture) -> AbstractContextManager[Image.Image]:
    """What Pillow reads, not decoded; of a path only a file, since a pipe or a device may never end."""
    content = picture.content
    if isinstance(content, Image.Image):
        return nullcontext(content)
    if isinstance(content, Path) and content.exists() and not content.is_file():
        raise DataError(
            f"The picture {picture.name} is no file, but a folder, a pipe or a device. Remove it."
        )
    return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=_FORMATS)


def _require_plain(picture: Picture, image: Image.Image) -> None:
    """Accepts what can be decoded at all, by the header alone."""
    if math.prod(image.size) > MOST_PIXELS:
        raise DataError(
            f"The picture {picture.name} is {image.width} x {image.height} pixels, and at most "
            f"{MOST_PIXELS:,} pixels are read. Make it smaller, or remove it."
        )
    # Pillow says only in the tiles that it cuts colours of 16 bits down to 8.
    if image.mode.startswith(("I", "F")) or ";16" in str(getattr(image, "tile", "")):
        raise DataError(
            f"The picture {picture.name} has more than 8 bits a channel (mode {image.mode}), "
            "which would be cut off. Convert it to 8 bits."
        )


def _other_size(picture: Picture, size: tuple[int, int], first: tuple[int, int]) -> DataError:
    return DataError(
        f"The picture {picture.name} is {size[0]} x {size[1]} pixels, but the first is "
        f"{first[0]} x {first[1]}. Name a `size` to resize and crop all to size x size pixels."
    )
