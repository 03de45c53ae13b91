"""Images that stay on disk: a tensor whose rows are read when they are asked for, and the files that it maps.

A training that reads its batches from disk is bit for bit the one that has them in memory, since the order of
examples, and what is drawn, depend on seeds alone.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map_only
from typing_extensions import override

from withstand.core.run_folder import put_in_place
from withstand.data.locations import cache_folder, staged
from withstand.types import DataError

_log = logging.getLogger(__name__)

CHUNK = 4096  # images that are read, or looked at, at a time
_SHARE = 0.5  # of the machine's memory: what images may take where nothing else is said
_AHEAD = 2  # batches that are read before they are asked for
_LIMIT = "WITHSTAND_MEMORY"
_T = TypeVar("_T")

Stored = Callable[[Tensor], Tensor]
"""Brings images of any type into the form that ``Split`` holds."""


class MappedImages(Tensor):
    """Rows of an array on disk, as a tensor: an index reads the rows that it names, all else reads every row.

    It has a tensor's shape and type, and stays on the CPU.

    Args:
        source: What is mapped, (examples, …), of any type.
        rows: int64 tensor (chosen,): which examples, in which order.
        stored: What brings some of them into the form that ``Split`` holds.
        dtype: That form.
    """

    source: Tensor
    rows: Tensor
    stored: Stored

    @staticmethod
    def __new__(
        cls: type[MappedImages],
        source: Tensor,
        rows: Tensor,
        stored: Stored,
        dtype: torch.dtype,
    ) -> MappedImages:
        """A tensor without values of its own."""
        shape = (len(rows), *source.shape[1:])
        made: MappedImages = Tensor._make_wrapper_subclass(
            cls, shape, dtype=dtype, device=torch.device("cpu")
        )
        made.source, made.rows, made.stored = source, rows, stored
        return made

    # Results are plain tensors.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    @override
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        every = [tree_map_only(MappedImages, lambda images: images[:], part) for part in (args, kwargs or {})]
        return func(*every[0], **every[1])

    @override
    def __getitem__(self, index: Any) -> Tensor:
        first, others = (index[0], index[1:]) if isinstance(index, tuple) and index else (index, ())
        if first is None or first is Ellipsis:
            return self[:][index]
        rows = self.rows[first.cpu() if isinstance(first, Tensor) else first]
        read = self.stored(self.source[rows])
        return read[(*[slice(None)] * rows.ndim, *others)] if others else read

    @override
    def __repr__(self) -> str:  # type: ignore[override]
        return f"MappedImages({tuple(self.shape)}, {self.dtype})"

    def choose(self, indices: Tensor) -> MappedImages:
        """Some of these rows, of which none is read.

        Args:
            indices: int64 tensor (chosen,), or a mask (rows,), on any device.
        """
        return MappedImages(self.source, self.rows[indices.cpu()], self.stored, self.dtype)


def mapped(array: NDArray[Any], form: Callable[[Tensor], tuple[Stored, torch.dtype]]) -> MappedImages:
    """Images of an array on disk.

    Args:
        array: A ``numpy.memmap`` (examples, …).
        form: How to bring it into the form that ``Split`` holds, found out by looking at all of it.
    """
    source = shared_tensor(array)
    return MappedImages(source, torch.arange(len(source)), *form(source))


def levels_of(array: NDArray[np.uint8]) -> Tensor:
    """The tensor of uint8 images, in memory or on disk as the array is."""
    if isinstance(array, np.memmap):
        return mapped(array, lambda images: (Tensor.contiguous, torch.uint8))
    return torch.from_numpy(array)


def shared_tensor(array: NDArray[Any]) -> Tensor:
    """The tensor that lies where an array does, be it read-only: nothing here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))


def chunks(images: Tensor) -> Iterator[Tensor]:
    """The images, a few thousand at a time."""
    return (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))


def ahead(reads: Iterable[Callable[[], _T]]) -> Iterator[_T]:
    """What each call gives, in their order, made by a thread before it is asked for."""
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Future[_T]] = deque()
        for read in reads:
            waiting.append(thread.submit(read))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


# -- what does not fit into memory ------------------------------------------------------------------


def memory_limit() -> float:
    """How many bytes an array of images may take in memory: ``WITHSTAND_MEMORY`` in GiB, else half of it.

    Raises:
        DataError: the variable is no number.
    """
    named = os.environ.get(_LIMIT)
    try:
        if named:
            return float(named) * 2**30
    except ValueError as error:
        raise DataError(f"{_LIMIT} is how many GiB images may take in memory, not {named!r}.") from error
    if not {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= {*getattr(os, "sysconf_names", ())}:
        return math.inf
    return _SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def is_large(num_bytes: float) -> bool:
    """Whether images of that size are left on disk."""
    return num_bytes > memory_limit()


def filled(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    fill: Callable[[NDArray[Any]], None],
    *,
    what: str,
    key: str = "",
) -> NDArray[Any]:
    """An array that a function fills: in memory where it fits, else in a file of the cache folder.

    Args:
        shape: Of the array.
        dtype: Of its values.
        fill: Is called with the array; not where the file is there from before.
        what: What the array holds, in words that a file may be called by: ``pictures``.
        key: Hex string that changes whenever the content does. Without one the file goes with the array.

    Raises:
        DataError: neither memory nor the disk holds it.
    """
    needed = math.prod(shape) * dtype.itemsize
    if not is_large(needed):
        array = np.empty(shape, dtype)
        fill(array)
        return array
    path = cache_folder() / f"{what.replace(' ', '-')}-{key}.npy"
    if key and path.is_file():
        return mapped_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _require_space(needed, shape, what, path.parent)
    _log.warning(
        "%s take %.3g GiB, more than the %.3g GiB that they may in memory (%s), so they are written to %s "
        "once and streamed from there%s.",
        *(f"{shape[0]:,} {what}", needed / 2**30, memory_limit() / 2**30, _LIMIT, path.parent),
        f": {path.name}, which later runs use too" if key else "; the file goes when this process ends",
    )
    with staged(path.parent) as stage:
        array = np.lib.format.open_memmap(stage / path.name, "w+", dtype, shape)
        fill(array)
        array.flush()
        if not key:
            return array  # of a file without a name, which is there as long as it is mapped
        put_in_place(stage / path.name, path)
    return mapped_file(path)


def mapped_file(path: Path) -> NDArray[Any]:
    """The array of a ``.npy`` file, left on disk.

    Raises:
        DataError: it is no such file.
    """
    try:
        mapped_array: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"The array {path} cannot be read: {error}. Write it by numpy.save.") from error
    return mapped_array  # copied on write: the file stays as it is


def _require_space(needed: int, shape: tuple[int, ...], what: str, folder: Path) -> None:
    if needed > shutil.disk_usage(folder).free:
        raise DataError(
            f"{shape[0]:,} {what} of {' x '.join(map(str, shape[1:]))} take {needed / 2**30:,.0f} GiB, "
            f"more than memory may hold and than {folder} has free. Name a smaller `size`, take fewer, or "
            "name another folder by the environment variable WITHSTAND_CACHE."
        )
