"""A user's own tensors or arrays as a data set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import TensorDataset

from withstand.core.dataset_info import DatasetInfo
from withstand.data.batches import nearest_levels
from withstand.data.mapped import CHUNK, chunks, mapped, shared_tensor
from withstand.data.partition import partition, stratified
from withstand.data.plausible import copies, darkness, missing_classes, tell
from withstand.data.split import Dataset, Split, channel_statistics, require_unit_range
from withstand.types import DataError

_log = logging.getLogger(__name__)

Array = Tensor | ArrayLike
Pair = tuple[Array, Array] | TensorDataset

_CHANNELS = (1, 2, 3, 4)
_MOST_NUMBERED = 100_000  # classes that are not named
_TESTED = 5  # one of so many images tests, where no test images are given


def from_arrays(
    train: Pair | None,
    test: Pair | None = None,
    *,
    validation: Pair | None = None,
    name: str = "arrays",
    class_names: Sequence[str] | None = None,
    validation_size: int | None = None,
    seed: int = 0,
) -> Dataset:
    """A data set from tensors, numpy arrays or lists in memory, which are copied.

    Images of a ``numpy.memmap`` stay on disk, and batches read the rows that they need.

    What is unlikely to be meant is logged as a warning: classes without training images, images that are
    nearly black, test images that are training images too.

    Args:
        train: Training images and labels, as ``as_split`` takes them, or a ``TensorDataset`` of both. None
            for a data set that only tests.
        test: Test images and labels. Where None a fifth of the training images tests, of each class its share
            and always the same ones, which is logged.
        validation: What validates, where that is not to be taken out of the training images.
        name: What reports call the data set.
        class_names: One name a class, in label order, no two alike; by default the numbers from 0 to the
            largest label.
        validation_size: How many training examples validate; by default a tenth, at most 5000.
        seed: Chooses them.

    Returns:
        The data set; mean and std of its ``info`` are those of the training images.

    Raises:
        DataError: images are outside [0, 1], a label is out of range, no label is 0 and no classes are named,
            or shapes do not fit.
        TypeError: a size or the seed is no number.
        ValueError: one is not whole, or the seed is negative.
    """
    given = {"train": train, "validation": validation, "test": test}
    splits = {part: as_split(*_pair(part, pair)) for part, pair in given.items() if pair is not None}
    known = splits.get("train", splits.get("test"))
    if known is None or ("train" in splits and len(known) == 0):
        raise DataError("There are no training images. Give at least one.")
    nothing = known.subset([])
    if "test" not in splits:
        splits |= _with_tested(known, name)
    present = [split.labels.cpu() for split in splits.values() if len(split)]
    names = _numbered(torch.cat(present or [nothing.labels])) if class_names is None else tuple(class_names)
    channels, height, width = known.images.shape[1:]
    about = DatasetInfo(name, (channels, height, width), names, *channel_statistics(known.images))
    if validation is None and "train" in splits:
        parts = partition(splits["train"], validation_size=validation_size, seed=seed)
    else:
        parts = splits.get("train", nothing), splits.get("validation", nothing)
    dataset = Dataset(about, *parts, splits["test"])
    tell(dataset, missing_classes, darkness, copies)
    return dataset


def _with_tested(split: Split, name: str) -> dict[str, Split]:
    """A split without the examples that test, and those."""
    tested = stratified(split.labels, len(split) // _TESTED)
    trained = torch.ones(len(split), dtype=torch.bool).index_fill_(0, tested, value=False)
    _log.warning(
        "%s: no test images are given, so %s of %s images, of each class its share, are set aside to test "
        "on; they are the same ones each time.",
        *(name, f"{len(tested):,}", f"{len(split):,}"),
    )
    return {"train": split.subset(trained), "test": split.subset(tested)}


def as_split(images: Array, labels: Array) -> Split:
    """One split from images in [0, 1] or uint8 images, and integer labels; both are copied.

    Args:
        images: (examples, channels, height, width): uint8 levels of 0 … 255, floats in [0, 1], or booleans,
            of which true is 1. Floats that are all multiples of 1/255 are kept as uint8, others as float32.
            Those of a ``numpy.memmap`` are looked at once, and stay on disk.
        labels: Integers (examples,) or (examples, 1), from 0.

    Raises:
        DataError: images are outside [0, 1] or of another type or shape, or labels are not
            integers from 0.
    """
    classes = _tensor("Labels", labels)
    if isinstance(images, np.memmap):
        _require_axes(shared_tensor(images))
        return Split(mapped(images, _form_of), _own(_classes(classes), labels))
    pixels = _tensor("Images", images)
    _require_axes(pixels)
    return Split(_own(_stored(pixels), images), _own(_classes(classes), labels))


def _pair(name: str, part: Pair) -> tuple[Array, Array]:
    pair = part.tensors if isinstance(part, TensorDataset) else part
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise DataError(
            f"{name} must be a pair of images and labels, but is a {type(part).__name__}. A torch Dataset, a "
            "DataLoader and others are taken by withstand.data.as_dataset(source), pictures on disk by "
            'withstand.data.load("folder:PATH").'
        )
    return pair[0], pair[1]


def _own(tensor: Tensor, given: Array) -> Tensor:
    """The tensor, copied where it lies in what was given, which may be changed in place afterwards."""
    is_shared = isinstance(given, Tensor) and (
        tensor.untyped_storage().data_ptr() == given.untyped_storage().data_ptr()
    )
    return tensor.clone(memory_format=torch.contiguous_format) if is_shared else tensor


def _tensor(what: str, array: Array) -> Tensor:
    if isinstance(array, Tensor):
        if array.layout != torch.strided:
            raise DataError(
                f"{what} must be a dense tensor, but are {array.layout}. Pass .to_dense() of them."
            )
        return array.detach() if array.requires_grad else array
    parts = array if isinstance(array, list | tuple) else [array]
    if any(isinstance(part, np.ma.MaskedArray) for part in parts):
        raise DataError(
            f"{what} are a masked array, and what its mask hides would count like the rest. Leave out the "
            "examples that it hides, or set its values by .filled(value)."
        )
    if isinstance(array, list | tuple) and array and all(isinstance(item, Tensor) for item in array):
        array = [item.detach().cpu().numpy() for item in array]
    try:
        values = np.asarray(array)
    except ValueError as error:
        raise DataError(f"{what} must be of one shape each to be one array, but {error}.") from error
    if values.dtype.kind not in "biuf":
        remedy = (
            "Number the classes from 0: class_names, labels = numpy.unique(labels, return_inverse=True)."
            if what == "Labels"
            else "Pass a tensor or an array of numbers."
        )
        raise DataError(f"{what} must be numbers, but have type {values.dtype}. {remedy}")
    kind = np.dtype(np.float64) if values.dtype == np.longdouble else values.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(values, kind, order="C"))


def _classes(labels: Tensor) -> Tensor:
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(
            f"Labels must be integers, but have type {labels.dtype}. Convert them first, such as by "
            "labels.long()."
        )
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise DataError(
            f"Labels must be one class number an image, but have shape {tuple(labels.shape)}. "
            "Where they are one-hot, pass labels.argmax(1)."
        )
    return (labels.squeeze(1) if labels.ndim == 2 else labels).to(torch.int64)


def are_channels_last(shape: tuple[int, ...]) -> bool:
    """Whether images of a shape (examples, …) cannot well have their channels on the second axis."""
    first, height, last = shape[1:] if len(shape) == 4 else (0, 0, 0)
    return last in _CHANNELS and first > last and height != last


def _require_axes(images: Tensor) -> None:
    shape = tuple(images.shape)
    first, height, last = shape[1:] if images.ndim == 4 else (0, 0, 0)
    if are_channels_last(shape):
        raise DataError(
            f"Images of shape {shape} seem to have their channels last. Move them to the second axis: "
            "images.permute(0, 3, 1, 2). Where they are there already, make the splits by data.Split."
        )
    is_open = first == last != height and first in (3, 4)
    if is_open or (first == height != last and first > max(_CHANNELS)):
        _log.warning(
            "Images of shape %s are taken to have %s channels of %s x %s pixels, on the second axis. Where "
            "the channels are last, move them there: images.permute(0, 3, 1, 2).",
            *(shape, first, height, last),
        )
    remedies = {
        2: "Vectors are images of one row: images.reshape(len(images), 1, 1, -1).",
        3: "Grey images need an axis of one channel: images[:, None].",
    }
    if images.ndim in remedies:
        raise DataError(
            f"Images must have the shape (examples, channels, height, width), but have {shape}. "
            f"{remedies[images.ndim]}"
        )


def _stored(images: Tensor) -> Tensor:
    """The images as ``Split`` holds them."""
    stored, _ = _form_of(images)
    if stored is not _nearest:
        return stored(images)
    return torch.cat([_nearest(part) for part in torch.split(images, CHUNK)])


def _form_of(images: Tensor) -> tuple[Callable[[Tensor], Tensor], torch.dtype]:
    """What brings images into the form that ``Split`` holds, and its type, by looking at all of them."""
    if images.dtype == torch.bool:
        return _black_and_white, torch.uint8
    if not images.is_floating_point():
        return _levels_as_they_are, _levels_as_they_are(images).dtype
    are_levels = True
    for part in chunks(images):
        floats = part.to(torch.float32)
        require_unit_range(floats)
        are_levels = are_levels and bool(nearest_levels(floats)[1].all())
    return (_nearest, torch.uint8) if are_levels and len(images) else (Tensor.float, torch.float32)


def _black_and_white(images: Tensor) -> Tensor:
    return images.to(torch.uint8) * 255


def _nearest(images: Tensor) -> Tensor:
    return nearest_levels(images.to(torch.float32))[0]


def _levels_as_they_are(images: Tensor) -> Tensor:
    if images.dtype != torch.uint8:
        raise DataError(
            f"Images must be a torch.uint8 tensor of levels 0 … 255, or floats in [0, 1], but have type "
            f"{images.dtype}. Divide them by the largest level that they can have: 255, or 65535 of 16 bits."
        )
    return images


def _numbered(labels: Tensor) -> tuple[str, ...]:
    """Names of the classes that labels number."""
    least, largest = int(labels.min()), int(labels.max())
    if least > 0:
        raise DataError(
            f"The smallest label is {least}, so class 0 would have no images and there would be "
            f"{largest + 1} classes. Number them from 0, such as by labels - {least} or "
            "labels.unique(return_inverse=True)[1]; where class 0 is meant, name all classes by class_names."
        )
    if largest >= _MOST_NUMBERED:
        raise DataError(
            f"The largest label is {largest:,}, so there would be {largest + 1:,} classes. Where labels are "
            "ids, number the classes from 0, such as by labels.unique(return_inverse=True)[1]; where there "
            "are so many classes, name all by class_names."
        )
    return tuple(str(label) for label in range(largest + 1))
