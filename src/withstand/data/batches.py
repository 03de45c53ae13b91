"""Batches, sliced from a split on its own device: no worker processes, no work per image.

Images on disk are read by a thread, a few batches ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from withstand.core.batch_shares import Share, taking
from withstand.data.mapped import MappedImages, ahead
from withstand.data.partition import sample
from withstand.data.split import Split
from withstand.types import Batch

_SAME = 2.0**-23  # of images in [0, 1]: what single precision may round


def batches(
    split: Split,
    batch_size: int,
    *,
    order: Tensor | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
    drop_last: bool = False,
    share_of: Callable[[int], Share | None] = lambda _: None,
) -> Iterator[Batch]:
    """One pass over a split.

    Args:
        split: Where the examples come from; batches are on its device.
        batch_size: Examples a batch, at least 1; the last one may be smaller.
        order: int64 tensor (examples,) of indices to visit, on any device, such as
            ``epoch_order`` makes; by default all examples in their order.
        augment: Applied to a copy of the images of each batch as they are stored: uint8, or float32 in
            [0, 1].
        drop_last: Leaves out a last batch that is smaller.
        share_of: From the number of rows of a batch to those of them that are wanted, such as
            ``batch_shares.own_share``; all where it gives None. What augments draws for the whole batch.

    Returns:
        An iterator of batches, with float32 images in [0, 1]; copies, which may be changed in place.

    Raises:
        ValueError: ``batch_size`` is not positive, or ``order`` is not a tensor of indices of
            the split.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, but is {batch_size}.")
    if order is not None:
        _require_indices(order, len(split))
        order = order.to(split.images.device)
    count = len(split) if order is None else len(order)
    stop = count - count % batch_size if drop_last else count
    sizes = [min(batch_size, stop - start) for start in range(0, stop, batch_size)]
    shares = [share_of(size) for size in sizes]
    rows = [
        slice(start, start + size) if share is None else slice(start + share.start, start + share.stop)
        for start, size, share in zip(range(0, stop, batch_size), sizes, shares, strict=True)
    ]
    read = (partial(_stored_at, split, own if order is None else order[own]) for own in rows)
    stored = ahead(read) if isinstance(split.images, MappedImages) else (one() for one in read)
    return (_batch_of(split, *one, augment, share) for one, share in zip(stored, shares, strict=True))


def repeated(order: Tensor, batch_size: int, times: int) -> Tensor:
    """An order in which each batch comes so many times in a row; a smaller one is left out.

    Args:
        order: int64 tensor (examples,).
        batch_size: Examples a batch.
        times: At least 1; with 1 it is the order itself.
    """
    if times == 1:
        return order
    whole = order[: len(order) - len(order) % batch_size]
    return whole.view(-1, batch_size).repeat_interleave(times, dim=0).flatten()


def few(split: Split, number: int) -> Batch:
    """A sample of a split as one batch: of each class its share (``sample``), in the order of the split.

    Args:
        split: Not empty; the batch is on its device.
        number: How many, at most.
    """
    return next(batches(sample(split, number), number))


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 images of 0 … 255 as float32 images in [0, 1]."""
    # A divisor on the device: CUDA divides by a Python number as a product with its
    # reciprocal, which would differ from the CPU in the last bit.
    return images.to(torch.float32) / torch.full((), 255.0, device=images.device)


def nearest_levels(images: Tensor) -> tuple[Tensor, Tensor]:
    """The levels that are nearest to floats.

    Args:
        images: float32 in [0, 1], (examples, …).

    Returns:
        Levels in uint8, of the same shape, and a bool for each example: whether these are the floats, up to
        what single precision rounds.
    """
    levels = (images * 255).round().to(torch.uint8)
    return levels, (to_unit_range(levels) - images).abs().flatten(1).amax(1) <= _SAME


def batch_at(
    split: Split, indices: slice | Tensor, augment: Callable[[Tensor], Tensor] | None = None
) -> Batch:
    """The examples at some indices, as ``batches`` gives them; nothing waits for the device."""
    return _batch_of(split, *_stored_at(split, indices), augment)


def _stored_at(split: Split, indices: slice | Tensor) -> tuple[Tensor, Tensor]:
    """Images and labels as they are stored, copied; what is read from disk for a GPU is in pinned memory."""
    device = split.labels.device
    if not isinstance(split.images, MappedImages):
        # A slice is a view of the data, which whoever gets the batch may write into.
        stored, labels = (
            part[indices].clone() if isinstance(indices, slice) else part[indices]
            for part in (split.images, split.labels)
        )
        return stored, labels
    pinned = torch.Tensor.pin_memory if device.type == "cuda" else torch.Tensor.contiguous
    where = indices if isinstance(indices, slice) else pinned(indices.cpu()).to(device, non_blocking=True)
    return pinned(split.images[indices]), split.labels[where].clone()


def _batch_of(
    split: Split,
    stored: Tensor,
    labels: Tensor,
    augment: Callable[[Tensor], Tensor] | None,
    share: Share | None = None,
) -> Batch:
    stored = stored.to(split.labels.device, non_blocking=True)
    images = stored
    if augment is not None:
        with taking(share):
            images = augment(stored)
    # By the type in storage: what augments levels of 0 … 255 may hand them back as floats.
    is_levels = stored.dtype == torch.uint8
    return Batch(to_unit_range(images) if is_levels else images, labels)


def _require_indices(order: Tensor, num_examples: int) -> None:
    if order.ndim != 1 or order.dtype != torch.int64:
        raise ValueError(f"order must be a 1-D int64 tensor, but is {order.dtype} {tuple(order.shape)}.")
    if len(order) and not (int(order.min()) >= 0 and int(order.max()) < num_examples):
        raise ValueError(
            f"order must hold indices from 0 to {num_examples - 1}, "
            f"but its values go from {int(order.min())} to {int(order.max())}."
        )
