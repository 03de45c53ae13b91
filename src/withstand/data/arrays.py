"""A user's own tensors or arrays as a data set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import TensorDataset

from withstand.core.dataset_info import DatasetInfo, InputRange
from withstand.data.batches import nearest_levels
from withstand.data.input_range import as_input_range, scale
from withstand.data.mapped import CHUNK, chunks, mapped, shared_tensor
from withstand.data.partition import partition, stratified
from withstand.data.plausible import copies, darkness, missing_classes, tell
from withstand.data.split import Dataset, Split, channel_statistics, require_unit_range
from withstand.types import DataError

_log = logging.getLogger(__name__)

Array = Tensor | ArrayLike
Pair = tuple[Array, Array] | TensorDataset

_CHANNELS = (1, 2, 3, 4)
_SETTLED = "name them, by feature_names of from_arrays"
_MOST_NUMBERED = 100_000  # classes that are not named
_TESTED = 5  # one of so many images tests, where no test images are given


def from_arrays(  # noqa: PLR0913 - each says another thing of the data
    train: Pair | None,
    test: Pair | None = None,
    *,
    validation: Pair | None = None,
    name: str = "arrays",
    class_names: Sequence[str] | None = None,
    input_range: Sequence[float | ArrayLike] | None = None,
    feature_names: Sequence[str] = (),
    validation_size: int | None = None,
    seed: int = 0,
) -> Dataset:
    """A data set from tensors, numpy arrays or lists in memory, which are copied.

    An example is a vector (features,), a series (channels, length), an image (channels, height, width), a
    volume (channels, depth, height, width), or has more axes; all in [0, 1] unless ``input_range`` is stated.
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
        input_range: ``(low, high)``, each a number or one number a feature or channel, in the units of the
            data, which are scaled so that low is 0 and high is 1; epsilon then counts in shares of it. Of
            data whose limits are not known, ``range_of(train_images, test_images)`` estimates it. None: the
            data are in [0, 1], or uint8 levels.
        feature_names: One name a feature (of vectors) or channel, for reports and errors.
        validation_size: How many training examples validate; by default a tenth, at most 5000.
        seed: Chooses them.

    Returns:
        The data set; mean and std of its ``info`` are those of the training images.

    Raises:
        DataError: images are outside [0, 1] or their range, a label is out of range, no label is 0 and no
            classes are named, or shapes do not fit.
        TypeError: a size or the seed is no number.
        ValueError: one is not whole, or the seed is negative.
    """
    given = {"train": train, "validation": validation, "test": test}
    splits = {
        part: as_split(*_pair(part, pair), input_range=input_range, feature_names=feature_names)
        for part, pair in given.items()
        if pair is not None
    }
    known = splits.get("train", splits.get("test"))
    if known is None or ("train" in splits and len(known) == 0):
        raise DataError("There are no training images. Give at least one.")
    nothing = known.subset([])
    present = [split.labels.cpu() for split in splits.values() if len(split)]
    names = _numbered(torch.cat(present or [nothing.labels])) if class_names is None else tuple(class_names)
    if "test" not in splits:
        splits |= _with_tested(known, name)
    shape = tuple(known.images.shape[1:])
    ends = None if input_range is None else as_input_range(input_range, shape[0])
    about = DatasetInfo(name, shape, names, *channel_statistics(known.images), ends, feature_names)
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


def as_split(
    images: Array,
    labels: Array,
    *,
    input_range: Sequence[float | ArrayLike] | None = None,
    feature_names: Sequence[str] = (),
) -> Split:
    """One split from examples in [0, 1] or uint8 images, and integer labels; both are copied.

    Args:
        images: (examples, features), (examples, channels, length), (examples, channels, height, width), …:
            uint8 levels of 0 … 255, floats in [0, 1], or booleans, of which true is 1. Floats that are all
            multiples of 1/255 are kept as uint8, others as float32. Those of a ``numpy.memmap`` are looked at
            once, and stay on disk.
        labels: Integers (examples,) or (examples, 1), from 0.
        input_range: As for ``from_arrays``; the images may then be numbers of any type.
        feature_names: As for ``from_arrays``. Naming the channels also says that they are on the second axis
            where the shape alone leaves doubt.

    Raises:
        DataError: images are outside [0, 1] or their range, or of another type or shape, or labels are not
            integers from 0.
    """
    classes = _tensor("Labels", labels)
    pixels = shared_tensor(images) if isinstance(images, np.memmap) else _tensor("Images", images)
    if not len(feature_names):
        _require_axes(pixels)
    ends = None if input_range is None else as_input_range(input_range, pixels.shape[1])
    if isinstance(images, np.memmap):
        form = _form_of if ends is None else partial(_scaled_form, ends=ends, feature_names=feature_names)
        return Split(mapped(images, form), _own(_classes(classes), labels))
    if ends is not None:
        pixels = scale(pixels, ends, feature_names)
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
    first, *sides = shape[1:] if len(shape) > 2 else (0,)
    is_last = bool(sides) and sides[-1] in _CHANNELS and first > sides[-1]
    return is_last and (len(sides) == 1 or sides[-2] != sides[-1])


def _require_axes(images: Tensor) -> None:
    """Refuses axes that are likely not in the order meant, and warns of those that may not be."""
    shape = tuple(images.shape)
    if images.ndim < 2:
        raise DataError(
            "Data need an axis of examples and one of features or channels at least, but have shape "
            f"{shape}. One feature an example is an axis of its own: values[:, None]."
        )
    first, *sides = shape[1:]
    if not sides:
        return
    last_to_second = f"images.permute(0, {images.ndim - 1}, {', '.join(map(str, range(1, images.ndim - 1)))})"
    if are_channels_last(shape):
        raise DataError(
            f"Images of shape {shape} seem to have their channels last. Move them to the second axis: "
            f"{last_to_second}. Where they are there already, {_SETTLED}."
        )
    if len(sides) == 1 and first == sides[0] > max(_CHANNELS):
        raise DataError(
            f"Data of shape {shape} look like grey images without an axis of channels. Give them one: "
            f"images[:, None]. Where they are series of {first} channels and {sides[0]} steps, {_SETTLED}."
        )
    if _is_open(first, sides):
        pixels = " x ".join(map(str, sides))
        _log.warning(
            "Images of shape %s are taken to have %s channels of %s %s, on the second axis. Where the "
            "channels are last, move them there: %s; where they have no axis, add it: images[:, None].",
            *(shape, first, pixels, "steps" if len(sides) == 1 else "pixels", last_to_second),
        )


def _is_open(first: int, sides: Sequence[int]) -> bool:
    """Whether what should be channels may as well be a side."""
    is_many = first > max(_CHANNELS)
    if len(sides) == 1:
        return is_many and 2 * first > sides[0]
    is_even = len({first, *sides}) == 1  # as of a cube without channels
    return (is_many and (first == sides[0] != sides[-1] or is_even)) or (
        first in (3, 4) and first == sides[-1] != sides[0]
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


def _scaled_form(
    values: Tensor, *, ends: InputRange, feature_names: Sequence[str]
) -> tuple[Callable[[Tensor], Tensor], torch.dtype]:
    """What brings values in a user's units into the form that ``Split`` holds, and its type."""
    scaled = partial(scale, input_range=ends, feature_names=feature_names)
    for part in chunks(values):
        scaled(part)  # says which value is outside its range
    return scaled, torch.float32


def _black_and_white(images: Tensor) -> Tensor:
    return images.to(torch.uint8) * 255


def _nearest(images: Tensor) -> Tensor:
    return nearest_levels(images.to(torch.float32))[0]


def _levels_as_they_are(images: Tensor) -> Tensor:
    if images.dtype != torch.uint8:
        raise DataError(
            f"Images must be a torch.uint8 tensor of levels 0 … 255, or floats in [0, 1], but have type "
            f"{images.dtype}. Divide them by the largest level that they can have: 255, or 65535 of 16 bits; "
            "or state input_range=(low, high), in their units."
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
