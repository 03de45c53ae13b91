"""A user's own tensors or arrays as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from withstand.core.dataset_info import DatasetInfo
from withstand.data.partition import partition
from withstand.data.split import Dataset, Split, channel_statistics
from withstand.types import DataError

Array = Tensor | NDArray[Any]


def from_arrays(
    train: tuple[Array, Array],
    test: tuple[Array, Array],
    *,
    name: str = "arrays",
    class_names: Sequence[str] | None = None,
    validation_size: int | None = None,
    seed: int = 0,
) -> Dataset:
    """A data set from tensors or numpy arrays in memory.

    Args:
        train: Training images and labels, as ``as_split`` takes them.
        test: Test images and labels.
        name: What reports call the data set.
        class_names: One name a class, in label order; by default the labels that occur.
        validation_size: How many training examples validate; by default a tenth, at most 5000.
        seed: Chooses them.

    Returns:
        The data set; mean and std of its ``info`` are those of the training images.

    Raises:
        DataError: images are outside [0, 1], a label is out of range, or shapes do not fit.
    """
    known, tested = as_split(*train), as_split(*test)
    if len(known) == 0:
        raise DataError("There are no training images. Give at least one.")
    largest = max(int(split.labels.max()) for split in (known, tested) if len(split))
    names = tuple(str(label) for label in range(largest + 1)) if class_names is None else tuple(class_names)
    channels, height, width = known.images.shape[1:]
    about = DatasetInfo(name, (channels, height, width), names, *channel_statistics(known.images))
    return Dataset(about, *partition(known, validation_size=validation_size, seed=seed), tested)


def as_split(images: Array, labels: Array) -> Split:
    """One split from images in [0, 1] or uint8 images, and integer labels.

    Args:
        images: (examples, channels, height, width); floats in [0, 1], which are rounded to
            multiples of 1/255, or uint8.
        labels: Integers (examples,), from 0.

    Raises:
        DataError: images are outside [0, 1] or of another type or shape, or labels are not
            integers from 0.
    """
    pixels, classes = _tensor(images), _tensor(labels)
    if pixels.ndim == 4 and pixels.shape[-1] in (1, 3) and pixels.shape[1] > pixels.shape[-1]:
        raise DataError(
            f"Images of shape {tuple(pixels.shape)} seem to have their channels last. Move them to the "
            "second axis: images.permute(0, 3, 1, 2)."
        )
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise DataError(f"Labels must be integers, but have type {classes.dtype}. Convert them first.")
    if pixels.is_floating_point():
        _require_unit_range(pixels)
        pixels = (pixels * 255).round().to(torch.uint8)
    return Split(pixels, classes.to(torch.int64))


def _tensor(array: Array) -> Tensor:
    return torch.tensor(array) if isinstance(array, np.ndarray) else array


def _require_unit_range(images: Tensor) -> None:
    if images.numel() == 0:
        return
    low, high = (float(bound) for bound in images.aminmax())
    # Written so that NaN fails too.
    if not (low >= 0 and high <= 1):
        raise DataError(
            f"Images must lie in [0, 1], but these range from {low:.4g} to {high:.4g}. Divide levels of "
            "0 … 255 by 255 (or pass them as uint8), and do not normalise: that is a layer inside the model."
        )
