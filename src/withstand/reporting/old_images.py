"""The gallery's images as data URIs: clean, attacked, and what the attack changed."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from withstand.reporting.old_read import Gallery
from withstand.reporting.old_wording import epsilon_text

__all__ = ["GalleryView", "Triple", "amplification", "data_uri", "difference", "view_gallery"]

_MOST_IMAGES = 24
_MID_GREY = 128.0
# Of 127, so that rounding the factor never clips.
_SWING = 126.0


@dataclass(frozen=True)
class Triple:
    """One test image before and after the attack; images are data URIs of PNGs."""

    clean: str
    adversarial: str
    difference: str
    label: str
    clean_prediction: str
    adversarial_prediction: str
    clean_is_right: bool
    adversarial_is_right: bool


@dataclass(frozen=True)
class GalleryView:
    """The gallery as the page shows it; ``num_left_out`` images are too many to show."""

    attack: str
    epsilon: str
    factor: float
    triples: Sequence[Triple]
    num_left_out: int


def view_gallery(gallery: Gallery) -> GalleryView:
    """The first images of a gallery, with one amplification for all."""
    num_shown = min(len(gallery.label), _MOST_IMAGES)
    factor = amplification(gallery.clean[:num_shown], gallery.adversarial[:num_shown])
    triples = [_triple(gallery, index, factor) for index in range(num_shown)]
    return GalleryView(
        gallery.attack, epsilon_text(gallery.epsilon), factor, triples, len(gallery.label) - num_shown
    )


def amplification(clean: NDArray[np.uint8], adversarial: NDArray[np.uint8]) -> float:
    """The factor that lets the largest change swing from mid-grey almost to black or white.

    Args:
        clean: uint8 array of any shape.
        adversarial: uint8 array of the same shape.

    Returns:
        Two significant digits, rounded down; 1 where nothing changed.
    """
    changes = np.abs(adversarial.astype(np.float64) - clean.astype(np.float64))
    largest = float(changes.max(initial=0.0))
    if largest == 0:
        return 1.0
    factor = _SWING / largest
    unit = 10.0 ** (1 - math.floor(math.log10(factor)))
    # 6.3 is no float: the inner rounding keeps it from falling to 6.2.
    return round(math.floor(round(factor * unit, 9)) / unit, 6)


def difference(clean: NDArray[np.uint8], adversarial: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """The signed change times a factor, on mid-grey: lighter is more, darker is less."""
    change = adversarial.astype(np.float64) - clean.astype(np.float64)
    return np.clip(np.rint(_MID_GREY + factor * change), 0, 255).astype(np.uint8)


def data_uri(image: NDArray[np.uint8]) -> str:
    """A PNG of (height, width, 1 or 3) as a data URI."""
    buffer = io.BytesIO()
    grey_or_colour = image[:, :, 0] if image.shape[2] == 1 else image
    Image.fromarray(np.ascontiguousarray(grey_or_colour)).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _triple(gallery: Gallery, index: int, factor: float) -> Triple:
    clean, adversarial = gallery.clean[index], gallery.adversarial[index]
    label, names = int(gallery.label[index]), gallery.class_names
    before, after = int(gallery.clean_prediction[index]), int(gallery.adversarial_prediction[index])
    return Triple(
        clean=data_uri(clean),
        adversarial=data_uri(adversarial),
        difference=data_uri(difference(clean, adversarial, factor)),
        label=names[label],
        clean_prediction=names[before],
        adversarial_prediction=names[after],
        clean_is_right=before == label,
        adversarial_is_right=after == label,
    )
