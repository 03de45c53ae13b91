"""The images that a run folder keeps, what an attack changed in them, and their data URIs."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from withstand.core.answers import NO_ANSWER

_MID_GREY = 128.0
# Of 127, so that rounding the factor never clips.
_SWING = 126.0

_Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Gallery:
    """``gallery.npz``: some test images before and after an attack, one entry an image in each array."""

    clean: NDArray[np.uint8]  # (images, height, width, 1 or 3 channels)
    adversarial: NDArray[np.uint8]
    label: NDArray[np.int64]
    clean_prediction: NDArray[np.int64]
    adversarial_prediction: NDArray[np.int64]
    epsilon: float  # in [0, 1] units
    attack: str
    class_names: Sequence[str]


@dataclass(frozen=True)
class Extreme:
    """Test images at one end of the certified radii, one entry an image in each array."""

    images: NDArray[np.uint8]  # (images, height, width, 1 or 3 channels)
    index: NDArray[np.int64]  # the rows of examples.csv
    label: NDArray[np.int64]
    radius: NDArray[np.float64]  # above 0


@dataclass(frozen=True)
class Extremes:
    """``extremes.npz``: the examples that ``certificate`` proves with the least and the most to spare."""

    smallest: Extreme
    largest: Extreme
    certificate: str
    class_names: Sequence[str]


def gallery_of(arrays: _Arrays) -> Gallery:
    """The gallery in a file's arrays.

    Raises:
        KeyError: an array is missing.
        ValueError: the arrays do not fit each other; the text says which.
    """
    images, others, names = arrays["clean"], arrays["adversarial"], _names(arrays)
    if images.dtype != np.uint8 or others.dtype != np.uint8 or images.shape != others.shape:
        raise ValueError("clean and adversarial must be uint8 arrays of one shape")
    _check_images(images)
    label, before, after = (arrays[name] for name in ("label", "clean_prediction", "adversarial_prediction"))
    _check_classes(label, images, names)
    for predicted in (before, after):
        _check_classes(predicted, images, names, least=NO_ANSWER)
    epsilon, attack = float(arrays["epsilon"]), str(arrays["attack"])
    return Gallery(images, others, label, before, after, epsilon, attack, names)


def extremes_of(arrays: _Arrays) -> Extremes:
    """The examples of the smallest and largest radii in a file's arrays.

    Raises:
        KeyError: an array is missing.
        ValueError: the arrays do not fit each other; the text says which.
    """
    names = _names(arrays)
    smallest, largest = (_extreme(arrays, part, names) for part in ("smallest", "largest"))
    return Extremes(smallest, largest, str(arrays["certificate"]), names)


def _extreme(arrays: _Arrays, part: str, names: Sequence[str]) -> Extreme:
    images, radius = arrays[f"{part}_images"], arrays[f"{part}_radius"]
    index, label = arrays[f"{part}_index"], arrays[f"{part}_label"]
    if images.dtype != np.uint8:
        raise ValueError(f"{part}_images must be a uint8 array")
    _check_images(images)
    _check_classes(label, images, names)
    if index.shape != (len(images),) or not np.issubdtype(index.dtype, np.integer):
        raise ValueError(f"{part}_index must hold one whole number an image")
    is_number = np.issubdtype(radius.dtype, np.floating)
    if radius.shape != (len(images),) or not is_number or not np.all(np.isfinite(radius) & (radius > 0)):
        raise ValueError(f"{part}_radius must hold one number above 0 an image")
    return Extreme(images, index, label, radius.astype(np.float64))


def _names(arrays: _Arrays) -> list[str]:
    return [str(name) for name in arrays["class_names"].tolist()]


def _check_images(images: NDArray[Any]) -> None:
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(f"the images must be (images, height, width, 1 or 3), but are {images.shape}")


def _check_classes(classes: NDArray[Any], images: NDArray[Any], names: Sequence[str], least: int = 0) -> None:
    if classes.shape != (len(images),) or not np.issubdtype(classes.dtype, np.integer):
        raise ValueError("label and predictions must hold one whole number an image")
    if len(classes) and not least <= classes.min() <= classes.max() < len(names):
        raise ValueError(f"labels and predictions must lie in 0 to {len(names) - 1}")


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
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
