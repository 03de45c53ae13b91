"""The examples that a run folder keeps, what an attack changed in them, and the data URIs of images."""

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
_MOST_TILES = 16
_LARGEST_SIDE = 256  # pixels of an image on the page

_Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Attacked:
    """``gallery.npz``: what was answered of some test examples before and after an attack, one entry each."""

    label: NDArray[np.int64]
    clean_prediction: NDArray[np.int64]
    adversarial_prediction: NDArray[np.int64]
    epsilon: float  # in [0, 1] units
    attack: str
    class_names: Sequence[str]


@dataclass(frozen=True)
class Gallery(Attacked):
    """The examples where they are images, or middle slices of volumes."""

    clean: NDArray[np.uint8]  # (images, height, width, channels)
    adversarial: NDArray[np.uint8]
    change: NDArray[np.floating[Any]]  # of the same shape, in levels of 255, not rounded to whole ones
    num_slices: int | None = None  # of a volume


@dataclass(frozen=True)
class AttackedValues(Attacked):
    """The examples where they are vectors or series, in the user's units."""

    clean: NDArray[np.float64]  # (examples, features) or (examples, channels, length)
    adversarial: NDArray[np.float64]
    share: NDArray[np.float64]  # of the range by which each value changed
    feature_names: Sequence[str]


@dataclass(frozen=True)
class Extreme:
    """Test examples at one end of the certified radii, one entry an example in each array."""

    images: NDArray[np.uint8] | None  # (images, height, width, channels); of vectors and series None
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
    num_slices: int | None = None  # of a volume


def gallery_of(arrays: _Arrays) -> Gallery | AttackedValues:
    """The gallery in a file's arrays.

    Raises:
        KeyError: an array is missing.
        ValueError: the arrays do not fit each other; the text says which.
    """
    return _values_of(arrays) if "clean_values" in arrays else _pictures_of(arrays)


def _pictures_of(arrays: _Arrays) -> Gallery:
    images, others = arrays["clean"], arrays["adversarial"]
    if images.dtype != np.uint8 or others.dtype != np.uint8 or images.shape != others.shape:
        raise ValueError("clean and adversarial must be uint8 arrays of one shape")
    _check_images(images)
    return Gallery(*_answers(arrays, images), images, others, _change(arrays), _num_slices(arrays))


def _values_of(arrays: _Arrays) -> AttackedValues:
    before, after = arrays["clean_values"], arrays["adversarial_values"]
    features, length = [str(name) for name in arrays["feature_names"].tolist()], arrays["range_length"]
    of_one_shape = before.shape == after.shape and before.ndim in (2, 3) and 0 not in before.shape[1:]
    if not of_one_shape or not before.shape[1:2] == length.shape == (len(features),):
        raise ValueError("clean_values and adversarial_values must fit each other and their features")
    if not all(np.isfinite(values).all() for values in (before, after, length)):
        raise ValueError("clean_values, adversarial_values and range_length must be finite")
    length = np.where(length > 0, length, 1.0).reshape(-1, *[1] * (before.ndim - 2))
    return AttackedValues(*_answers(arrays, before), before, after, (after - before) / length, features)


def _answers(arrays: _Arrays, examples: NDArray[Any]) -> tuple[Any, Any, Any, float, str, list[str]]:
    """The fields of ``Attacked``."""
    names = _names(arrays)
    label, before, after = (arrays[name] for name in ("label", "clean_prediction", "adversarial_prediction"))
    _check_classes(label, examples, names)
    for predicted in (before, after):
        _check_classes(predicted, examples, names, least=NO_ANSWER)
    return label, before, after, float(arrays["epsilon"]), str(arrays["attack"]), names


def _num_slices(arrays: _Arrays) -> int | None:
    return int(arrays["num_slices"]) if "num_slices" in arrays else None


def _change(arrays: _Arrays) -> NDArray[np.floating[Any]]:
    images = arrays["clean"]
    rounded = arrays["adversarial"].astype(np.float64) - images  # all that older files hold
    change = np.asarray(arrays.get("change", rounded))
    is_number = np.issubdtype(change.dtype, np.floating)
    if change.shape != images.shape or not is_number or not np.isfinite(change).all():
        raise ValueError("change must hold one number a pixel")
    return change.astype(np.float64)  # in which sums with levels are not rounded


def extremes_of(arrays: _Arrays) -> Extremes:
    """The examples of the smallest and largest radii in a file's arrays.

    Raises:
        KeyError: an array is missing.
        ValueError: the arrays do not fit each other; the text says which.
    """
    names = _names(arrays)
    smallest, largest = (_extreme(arrays, part, names) for part in ("smallest", "largest"))
    return Extremes(smallest, largest, str(arrays["certificate"]), names, _num_slices(arrays))


def _extreme(arrays: _Arrays, part: str, names: Sequence[str]) -> Extreme:
    images, radius = arrays.get(f"{part}_images"), arrays[f"{part}_radius"]
    index, label = arrays[f"{part}_index"], arrays[f"{part}_label"]
    if images is not None:
        if images.dtype != np.uint8:
            raise ValueError(f"{part}_images must be a uint8 array")
        _check_images(images)
    examples = index if images is None else images
    _check_classes(label, examples, names)
    if index.shape != (len(examples),) or not np.issubdtype(index.dtype, np.integer):
        raise ValueError(f"{part}_index must hold one whole number an image")
    is_number = np.issubdtype(radius.dtype, np.floating)
    if radius.shape != (len(examples),) or not is_number or not np.all(np.isfinite(radius) & (radius > 0)):
        raise ValueError(f"{part}_radius must hold one number above 0 an image")
    return Extreme(images, index, label, radius.astype(np.float64))


def _names(arrays: _Arrays) -> list[str]:
    return [str(name) for name in arrays["class_names"].tolist()]


def _check_images(images: NDArray[Any]) -> None:
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"the images must be (images, height, width, channels), but are {images.shape}")


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
    """A PNG of (height, width, channels) as a data URI; ``drawn_as`` says how it is drawn."""
    picture = Image.fromarray(np.ascontiguousarray(_as_picture(image)))
    if max(picture.size) > _LARGEST_SIDE:
        scale = _LARGEST_SIDE / max(picture.size)
        width, height = (max(1, round(scale * side)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def drawn_as(images: NDArray[np.uint8], num_slices: int | None = None) -> str:
    """How the page draws images (…, height, width, channels), in a sentence; empty where as they are."""
    *_, height, width, channels = images.shape
    sentences = []
    if num_slices is not None:
        sentences.append(f"Of each volume the middle slice is drawn, {num_slices // 2 + 1} of {num_slices}.")
    if channels not in (1, 3):
        how = "of which the mean is drawn"
        if channels <= _MOST_TILES:
            how = f"which are drawn in grey beside each other, {_columns(channels)} a row"
        sentences.append(f"The images have {channels} channels, {how}.")
    if max(height, width) > _LARGEST_SIDE:
        sentences.append(f"They are {width} × {height} pixels large, and drawn smaller.")
    return " ".join(sentences)


def _as_picture(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(height, width) in grey, or (height, width, 3)."""
    height, width, channels = image.shape
    if channels == 3:
        return image
    if channels > _MOST_TILES:
        mean: NDArray[np.uint8] = np.rint(image.mean(axis=2)).astype(np.uint8)
        return mean
    columns = _columns(channels)
    rows = -(-channels // columns)
    # A pixel between channels, and what the last row lacks, stay white.
    page = np.full((rows * (height + 1), columns * (width + 1)), 255, np.uint8)
    for channel in range(channels):
        top, left = channel // columns * (height + 1), channel % columns * (width + 1)
        page[top : top + height, left : left + width] = image[:, :, channel]
    return page[:-1, :-1]


def _columns(channels: int) -> int:
    return math.ceil(math.sqrt(channels))
