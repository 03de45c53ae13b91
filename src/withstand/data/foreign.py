"""Data sets of torch and of Hugging Face, read into arrays: each item once, in the order of the data set."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from withstand.core.devices import preserved_random_state
from withstand.data.mapped import filled
from withstand.data.picture_files import Fitting, Picture, form_of
from withstand.types import DataError

_log = logging.getLogger(__name__)

_NOTHING = object()
_BATCH = 256  # items that are read together
_READ_TWICE = 8  # items, to see whether they are drawn
_IMAGES = ("image", "img", "images", "pixel_values", "picture", "x", "inputs", "features")
_LABELS = ("label", "labels", "fine_label", "target", "targets", "y", "class")


class Columns(NamedTuple):
    """What holds images and labels where items have named parts; guessed, and said, where None."""

    image: str | None = None
    label: str | None = None


class Arrays(NamedTuple):
    """Images and labels, and what the classes are called where that is known."""

    images: Any
    labels: Any
    class_names: tuple[str, ...] | None = None


def is_hub_dataset(source: object) -> bool:
    """Whether this is a data set of Hugging Face ``datasets``, which need not be installed."""
    return type(source).__module__.split(".")[0] == "datasets" and hasattr(source, "features")


def read_items(source: Any, what: str, columns: Columns, size: int | None) -> Arrays:
    """Reads a torch ``Dataset``, a ``DataLoader`` or a Hugging Face ``Dataset``.

    Args:
        source: Its items are pairs of image and label, or have named parts. A ``DataLoader`` is read in the
            order of its data set, whether it shuffles or not.
        what: For errors, such as ``train images``.
        columns: What the named parts are called.
        size: Side in pixels that pictures are brought to.

    Raises:
        DataError: items are no such pairs, differ in shape or cannot be read.
    """
    dataset = _in_order(source, what) if isinstance(source, DataLoader) else source
    if type(dataset) is TensorDataset and len(dataset.tensors) == 2:
        return Arrays(*dataset.tensors)
    with _seeded():
        rows = _rows(source, dataset)
        first = next(rows, _NOTHING)
        if first is _NOTHING:
            raise DataError(f"There are no {what}: the {type(source).__name__} has no items.")
        names = _column_names(first, what, columns) if isinstance(first, Mapping) else None
        reader = _Reader(what, names, *_pair(first, what, names), size)
        rows, labels = chain([first], rows), []
        if _is_iterable(dataset):
            dataset = list(rows)  # of which nothing else tells how many there are
            rows = iter(dataset)
        elif _collate(source) is default_collate:
            _tell_drawn(dataset, what, names)

        def fill(images: NDArray[Any]) -> None:
            for index, row in enumerate(rows):
                images[index], label = reader.read(row, index)
                labels.append(label)

        images = filled((len(dataset), *reader.shape), reader.dtype, fill, what=what)
    reader.tell(len(dataset))
    return Arrays(images, np.asarray(labels), _class_names(dataset, names))


def _in_order(loader: DataLoader[Any], what: str) -> Any:
    """The data set of a loader; of a choice of its items that choice, in ascending order."""
    sampler, batch_sampler = loader.sampler, loader.batch_sampler
    if _is_iterable(loader.dataset):
        return loader.dataset
    if isinstance(sampler, SubsetRandomSampler):
        return Subset(loader.dataset, sorted(sampler.indices))
    plain = (SequentialSampler, RandomSampler)
    if not isinstance(sampler, plain) or type(batch_sampler) not in (BatchSampler, type(None)):
        _log.warning(
            "%s: the %s of the DataLoader is not used; all items of its data set are read, each once.",
            what,
            type(batch_sampler if isinstance(sampler, plain) else sampler).__name__,
        )
    return loader.dataset


def _rows(source: Any, dataset: Any) -> Iterator[Any]:
    """All items; of a loader that puts batches together in its own way those of such batches."""
    is_loader, is_default = isinstance(source, DataLoader), _collate(source) is default_collate
    if _is_iterable(dataset):
        return _items_of(source) if is_loader else iter(dataset)
    read: DataLoader[Any] = DataLoader(
        dataset,
        _BATCH,
        num_workers=source.num_workers if is_loader else 0,
        collate_fn=_as_they_are if is_default else _collate(source),
        generator=torch.Generator().manual_seed(0),  # what workers draw from
    )
    return chain.from_iterable(read) if is_default else _items_of(read)


def _collate(source: Any) -> Callable[[list[Any]], Any]:
    return source.collate_fn if isinstance(source, DataLoader) else default_collate


def _is_iterable(dataset: Any) -> bool:
    return isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__")


def _as_they_are(items: list[Any]) -> list[Any]:
    return items


def _items_of(batches: Iterable[Any]) -> Iterator[Any]:
    for batch in batches:
        if isinstance(batch, Mapping):
            yield from (dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True))
        else:
            yield from zip(*batch, strict=True)


@contextmanager
def _seeded() -> Iterator[None]:
    """What reading draws is the same each time, and what others draw afterwards is as if it had not."""
    former, former_of_numpy = random.getstate(), np.random.get_state()
    with preserved_random_state(torch.device("cpu")):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        try:
            yield
        finally:
            random.setstate(former)
            np.random.set_state(former_of_numpy)


class _Reader:
    """Turns items into arrays of one shape and type, those of the first.

    Args:
        what: For errors.
        names: Of the parts of an item, where they have names.
        image: Of the first item.
        label: Of the first item, which is not looked at.
        size: Side in pixels that pictures are brought to.
    """

    def __init__(self, what: str, names: Columns | None, image: Any, label: Any, size: int | None) -> None:
        self._what, self._names, self._fitting = what, names, None
        if isinstance(image, Image.Image):
            self._fitting = Fitting(form_of(Picture(f"the first of the {what}", image), size))
        elif size is not None:
            raise DataError(f"Only pictures are resized, and the {what} are arrays. Leave out size={size}.")
        first = self._array(image, 0)
        self.shape, self.dtype = first.shape, first.dtype

    def read(self, item: Any, index: int) -> tuple[NDArray[Any], Any]:
        """Image and label of an item, the ``index``-th.

        Raises:
            DataError: it differs from the first.
        """
        image, label = _pair(item, self._what, self._names)
        array = self._array(image, index)
        if array.shape != self.shape or array.dtype != self.dtype:
            raise DataError(
                f"All {self._what} must be of one shape and type, but number {index:,} is {array.dtype} "
                f"{array.shape} and the first is {self.dtype} {self.shape}. Bring them to one size in "
                "the data set, such as by a Resize; pictures without a transform are resized by size=32."
            )
        return array, _plain(label)

    def _array(self, image: Any, index: int) -> NDArray[Any]:
        if isinstance(image, Image.Image):
            if self._fitting is None:
                raise DataError(f"Number {index:,} of the {self._what} is a picture, but the first is none.")
            return self._fitting.pixels(Picture(f"number {index:,} of the {self._what}", image))
        array = _plain(image)
        return array.astype(np.float32) if array.dtype.kind == "f" else array

    def tell(self, number: int) -> None:
        """Says what was made of pictures."""
        if self._fitting is not None:
            self._fitting.tell(_log.warning, number)


def _plain(value: Any) -> NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _pair(item: Any, what: str, names: Columns | None) -> tuple[Any, Any]:
    if names is not None:
        return item[names.image], item[names.label]
    if not isinstance(item, tuple | list) or len(item) != 2:
        parts = f" of {len(item)}" if isinstance(item, tuple | list) else ""
        raise DataError(
            f"Each of the {what} must be a pair of image and label, or a dictionary of both, but is a "
            f"{type(item).__name__}{parts}. Wrap the data set so that dataset[i] gives (image, label)."
        )
    return item[0], item[1]


def _column_names(item: Mapping[str, Any], what: str, columns: Columns) -> Columns:
    """What holds image and label in items with named parts: as asked for, else by the usual names."""
    for name in filter(None, columns):
        if name not in item:
            raise DataError(f"The {what} have no {name!r}. There are: {', '.join(map(str, item))}.")
    pictures = [name for name, value in item.items() if isinstance(value, Image.Image)]
    image = columns.image or next((name for name in (*_IMAGES, *pictures) if name in item), None)
    label = columns.label or next((name for name in _LABELS if name in item), None)
    if image is None or label is None:
        raise DataError(
            f"Which part of the {what} is image, and which label? There are: {', '.join(map(str, item))}. "
            "Name both: withstand.data.as_dataset(source, columns=(image, label))."
        )
    if columns != (image, label) != ("image", "label"):
        others = [str(name) for name in item if name not in (image, label)]
        unread = f" {', '.join(others)} is not read." if others else ""
        _log.warning("%s: the images are taken from %r, the labels from %r.%s", what, image, label, unread)
    return Columns(image, label)


def _class_names(dataset: Any, names: Columns | None) -> tuple[str, ...] | None:
    """As a data set of Hugging Face or torchvision tells them."""
    if is_hub_dataset(dataset) and names is not None:
        known = getattr((dataset.features or {}).get(names.label), "names", None)
    else:
        while not hasattr(dataset, "classes") and hasattr(dataset, "dataset"):
            dataset = dataset.dataset  # of a subset
        known = getattr(dataset, "classes", None)
    is_list = isinstance(known, list | tuple) and all(isinstance(name, str) for name in known)
    return tuple(known) if known and is_list else None


def _tell_drawn(dataset: Any, what: str, names: Columns | None) -> None:
    """Says that items are drawn, as by random augmentation, where those read twice differ."""
    indices = range(min(_READ_TWICE, len(dataset)))
    first, second = ([_plain(_pair(dataset[i], what, names)[0]) for i in indices] for _ in range(2))
    if not all(map(np.array_equal, first, second)):
        _log.warning(
            "%s: an item is another image each time that it is read, as with random augmentation. Each is "
            "read once, from a fixed seed, and stays so. Hand in the data without; training augments by "
            "TrainingSettings(augment=…).",
            what,
        )
