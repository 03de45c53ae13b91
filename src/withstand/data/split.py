"""Examples and labels, in memory or on disk: a split, the data set of three of them, and their statistics.

Examples are images, or vectors, series and volumes, which are called images too. They are stored as uint8
where that loses nothing, a quarter of the space of floats, and are handed out in [0, 1] by ``batches``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from withstand.core.dataset_info import KNOWN_DATASETS, DatasetInfo, axes_of, form_of
from withstand.data.mapped import MappedImages, chunks
from withstand.types import DataError


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels of one part of a data set, on one device.

    Args:
        images: Tensor (examples, …): uint8 in 0 … 255, or float32 in [0, 1]. An example is a vector
            (features,), a series (channels, length), an image (channels, height, width), a volume (channels,
            depth, height, width), or of more axes, channels first. Those on disk are ``mapped.MappedImages``,
            which stay there on whatever device the split is.
        labels: int64 tensor (examples,), at least 0.

    Raises:
        DataError: types or shapes differ from these, images have no pixels, floats are outside [0, 1], or a
            label is negative.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        images = self.images
        form = torch.float32 if isinstance(images, Tensor) and images.dtype == torch.float32 else torch.uint8
        _require_form("Images", images, form, None)
        _require_form("Labels", self.labels, torch.int64, 1)
        if len(self.images) != len(self.labels):
            raise DataError(
                f"Each image needs one label, but there are {len(self.images)} images and "
                f"{len(self.labels)} labels."
            )
        if 0 in images.shape[1:]:
            raise DataError(
                f"Images must have at least one value along each axis, but have shape {tuple(images.shape)} "
                f"({', '.join(('examples', *axes_of(images.ndim - 1)))}). Look where they were cut."
            )
        if images.is_floating_point() and not isinstance(images, MappedImages):  # those were looked at once
            require_unit_range(images)
        if len(self) and int(self.labels.min()) < 0:
            raise DataError(
                f"Labels are numbered from 0, but one is {int(self.labels.min())}. "
                "Number the classes 0, 1, 2, … and leave out examples without a class."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({len(self):,} {form_of(self.images.shape[1:])}, {_stored_as(self)})"

    def to(self, device: torch.device | str) -> Split:
        """The same split on ``device``; images on disk stay there, and batches of them go to the device."""
        is_mapped = isinstance(self.images, MappedImages)
        return Split(self.images if is_mapped else self.images.to(device), self.labels.to(device))

    def subset(self, indices: Tensor | ArrayLike) -> Split:
        """The examples at ``indices``, in that order: copied, or where they are on disk pointed at.

        Args:
            indices: Integers (chosen,), or a mask of booleans (examples,): a tensor on any device, an array
                or a sequence.

        Raises:
            DataError: they are neither, or a mask is of another length.
        """
        chosen = _as_indices(indices, len(self)).to(self.labels.device)
        images = self.images
        return Split(
            images.choose(chosen) if isinstance(images, MappedImages) else images[chosen], self.labels[chosen]
        )


class Parts(NamedTuple):
    """What the files of a data set hold, before validation data are taken from training data."""

    train: Split
    test: Split


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set, ready to train on: validation data are former training data, never test data.

    Args:
        info: Its shape, classes and usual normalisation.
        train: What training sees.
        validation: What chooses between models; may be empty.
        test: What the report is about.

    Raises:
        DataError: a split does not fit ``info``: another image shape, or a label that is not
            in 0 … classes - 1.
    """

    info: DatasetInfo
    train: Split
    validation: Split
    test: Split
    source: Mapping[str, Any] | None = field(default=None, init=False, repr=False)
    """The arguments of ``data.load`` that give it again; None of what was made or put together otherwise."""

    def __repr__(self) -> str:
        parts = ", ".join(f"{len(split):,} {name}" for name, split in self._splits().items())
        about = f"{self.info.form}, {self.info.num_classes} classes"
        return f"Dataset({self.info.name!r}, {about}, {parts}, {_stored_as(self.train)})"

    def __post_init__(self) -> None:
        for name, split in self._splits().items():
            _require_fit(name, split, self.info)

    def to(self, device: torch.device | str) -> Dataset:
        """The same data set with all its splits on ``device``."""
        moved = Dataset(self.info, self.train.to(device), self.validation.to(device), self.test.to(device))
        return moved if self.source is None else moved.loaded_by(self.source)

    def loaded_by(self, source: Mapping[str, Any]) -> Dataset:
        """The same, noting by which arguments of ``data.load`` it is found again."""
        object.__setattr__(self, "source", dict(source))
        return self

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over the shapes and bytes of all splits; the same on any machine."""
        digest = hashlib.sha256()
        for name, split in self._splits().items():
            kind = "" if split.images.dtype == torch.uint8 else " float32"
            digest.update(f"{name} {tuple(split.images.shape)}{kind};".encode())
            for part in chunks(split.images):
                digest.update(part.cpu().numpy().reshape(-1).data)
            digest.update(split.labels.cpu().numpy().astype("<i8").data)
        return digest.hexdigest()

    def _splits(self) -> dict[str, Split]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


def require_unit_range(images: Tensor) -> None:
    """Accepts float images that lie in [0, 1].

    Raises:
        DataError: one does not, or is NaN.
    """
    if images.numel() == 0:
        return
    low, high = (float(bound) for bound in images.aminmax())
    # Written so that NaN fails too.
    if not (low >= 0 and high <= 1):
        raise DataError(
            f"Images must lie in [0, 1], but these range from {low:.4g} to {high:.4g}. Divide levels of "
            "0 … 255 by 255 (or pass them as uint8), and do not normalise: that is a layer inside the model. "
            "Of other units state the range, which is scaled to [0, 1]: "
            "from_arrays(..., input_range=(low, high))."
        )


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, or feature of vectors, in [0, 1] units.

    Args:
        images: Tensor (examples, channels, …), uint8 or float32 in [0, 1]; at least one example.

    Returns:
        Means and stds, one a channel. A std is at least 1/255, so that dividing by it is safe
        for a channel that never changes.
    """
    others, num_channels = (0, *range(2, images.ndim)), images.shape[1]
    if images.is_floating_point():
        count, zeros = images.shape.numel() // num_channels, torch.zeros(num_channels, dtype=torch.float64)
        sums = (part.sum(others, dtype=torch.float64).cpu() for part in chunks(images))
        averages = sum(sums, zeros) / count
        centre = averages.to(images).view(-1, *[1] * (images.ndim - 2))
        squares = ((part - centre).square().sum(others, dtype=torch.float64).cpu() for part in chunks(images))
        stds = (sum(squares, zeros) / count).sqrt()
        return tuple(averages.tolist()), tuple(stds.clamp(min=1 / 255).tolist())
    levels = torch.arange(256, dtype=torch.float64) / 255
    # Counts of 256 levels give both exactly, without a copy of the images as floats.
    none = torch.zeros(num_channels, 256, dtype=torch.int64)
    counts = sum((_counts(part) for part in chunks(images)), none)
    shares = counts.to(torch.float64) / counts.sum(1, keepdim=True)
    means = shares @ levels
    variances = (shares * (levels - means[:, None]).square()).sum(1)
    return tuple(means.tolist()), tuple(variances.sqrt().clamp(min=1 / 255).tolist())


def _stored_as(split: Split) -> str:
    return f"{str(split.images.dtype).removeprefix('torch.')} on {split.images.device}"


def _counts(images: Tensor) -> Tensor:
    """How often each channel has each level, (channels, 256)."""
    return torch.stack([channel.flatten().bincount(minlength=256) for channel in images.unbind(1)]).cpu()


def _require_form(what: str, tensor: Tensor, dtype: torch.dtype, ndim: int | None) -> None:
    """Accepts tensors of a type and number of axes; where that is None, of two at least."""
    if not isinstance(tensor, Tensor):
        raise DataError(
            f"{what} must be a tensor, but are a {type(tensor).__name__}. Make a split by "
            "withstand.data.as_split(images, labels), which takes arrays and lists too."
        )
    is_shaped = tensor.ndim >= 2 if ndim is None else tensor.ndim == ndim
    if tensor.dtype != dtype or not is_shaped:
        axes = "(examples, …)" if ndim is None else "(examples)"
        raise DataError(
            f"{what} must be a {dtype} tensor of shape {axes}, but have type {tensor.dtype} and "
            f"shape {tuple(tensor.shape)}. Pass images as uint8 in 0 … 255, or as floats in [0, 1] to "
            "withstand.data.as_split."
        )


def _as_indices(indices: Tensor | ArrayLike, num_examples: int) -> Tensor:
    """A 1-D tensor of int64 indices, or of bool for each example."""
    chosen = indices if isinstance(indices, Tensor) else torch.tensor(indices)
    is_mask = chosen.dtype == torch.bool
    if chosen.ndim != 1 or (len(chosen) and (chosen.is_floating_point() or chosen.is_complex())):
        raise DataError(
            "Examples are chosen by a list of whole numbers, or by a mask of one boolean an example, but "
            f"these are {chosen.dtype} of shape {tuple(chosen.shape)}."
        )
    if is_mask and len(chosen) != num_examples:
        raise DataError(
            f"A mask chooses by one boolean an example, but has {len(chosen)} for {num_examples} examples."
        )
    return chosen if is_mask else chosen.to(torch.int64)


def _require_fit(name: str, split: Split, info: DatasetInfo) -> None:
    if not isinstance(split, Split):
        raise DataError(
            f"The {name} split must be a withstand.data.Split, but is a {type(split).__name__}. Make it by "
            "withstand.data.as_split(images, labels)."
        )
    if tuple(split.images.shape[1:]) != tuple(info.shape):
        raise DataError(
            f"Images of the {name} split have shape {tuple(split.images.shape[1:])}, "
            f"but those of {info.name} have {tuple(info.shape)} ({', '.join(axes_of(len(info.shape)))})."
        )
    largest = int(split.labels.max()) if len(split) else 0
    if largest >= info.num_classes:
        remedy = (
            "Their file is damaged: delete it and fetch it again."
            if info is KNOWN_DATASETS.get(info.name)
            else "Name every class in class_names, in label order, or number the labels 0, 1, 2, …"
        )
        raise DataError(
            f"The {name} split of {info.name} has a label {largest}, but there are {info.num_classes} "
            f"classes, so labels go from 0 to {info.num_classes - 1}. {remedy}"
        )
