"""The idx files of MNIST and Fashion-MNIST, gzipped or not.

The format: two zero bytes, the type (8 for uint8), the number of axes, each axis as a
big-endian 32-bit integer, then the values (http://yann.lecun.com/exdb/mnist).
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from withstand.core.dataset_info import DatasetInfo
from withstand.data.locations import damaged, missing
from withstand.data.split import Parts, Split

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

# Of a file: many times what MNIST and its kin have.
MOST_ITEMS = 1_000_000

# What reading a damaged gzip file raises: bad magic or checksum, early end, bad stream.
GZIP_ERRORS = (gzip.BadGzipFile, EOFError, zlib.error)


def read_idx(info: DatasetInfo, root: Path, *, folder: str) -> Parts:
    """Reads the four idx files of a data set.

    Args:
        info: Which data set; its shape is what the files must hold.
        root: The data root.
        folder: Where below it the files lie (``MNIST/raw``).

    Returns:
        Both parts, in the order of the files.

    Raises:
        DataError: a file is missing, truncated or otherwise damaged, or has more than ``MOST_ITEMS`` images.
    """
    absent = absent_idx(root, folder=folder)
    if absent:
        raise missing(info.name, root / folder, absent, f"Run `withstand data fetch {info.name}`")
    paths = [path for name in IDX_FILES if (path := find_idx(root / folder, name)) is not None]
    return Parts(_read_split(paths[0], paths[1], info), _read_split(paths[2], paths[3], info))


def absent_idx(root: Path, *, folder: str) -> list[str]:
    """Names of the files of a data set that are not there, neither gzipped nor as they are."""
    return [f"{name}.gz" for name in IDX_FILES if find_idx(root / folder, name) is None]


def find_idx(folder: Path, name: str) -> Path | None:
    """The file ``name`` in ``folder``, as it is or gzipped; None where neither is there."""
    candidates = (folder / f"{name}.gz", folder / name)
    return next((path for path in candidates if path.is_file()), None)


def open_idx(path: Path) -> io.BufferedIOBase:
    """Opens an idx file to read its unpacked bytes."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _read_split(images: Path, labels: Path, info: DatasetInfo) -> Split:
    channels, *size = info.shape
    values, classes = _read_values(images, size), _read_values(labels, [])
    if len(values) != len(classes):
        raise damaged(labels, f"it holds {len(classes)} labels for the {len(values)} images of {images}")
    return Split(values.reshape(-1, channels, *size), classes.to(torch.int64))


def _read_values(path: Path, item_shape: list[int]) -> Tensor:
    """The values of one file as a uint8 tensor (items, *item_shape)."""
    try:
        with open_idx(path) as file:
            shape = _read_shape(path, file, item_shape)
            size = math.prod(shape)
            # One more than promised and no more: a small packed file may hold gigabytes of zeros.
            data = file.read(size + 1)
    except GZIP_ERRORS as error:
        raise damaged(path, f"it cannot be unpacked ({error})") from error
    if len(data) != size:
        at_least = " at least" if len(data) > size else ""
        raise damaged(path, f"its header promises {size} values, but {len(data)} follow{at_least}")
    return torch.from_numpy(np.frombuffer(data, np.uint8).reshape(shape).copy())


def _read_shape(path: Path, file: io.BufferedIOBase, item_shape: list[int]) -> list[int]:
    """What the header promises, checked before anything of that size is read."""
    num_axes = 1 + len(item_shape)
    header = file.read(4 + 4 * num_axes)
    if len(header) < 4 + 4 * num_axes or header[:4] != bytes([0, 0, 8, num_axes]):
        raise damaged(
            path, f"it begins with {header[:4].hex(' ')}, not as an idx file of uint8 with {num_axes} axes"
        )
    shape: list[int] = np.frombuffer(header, ">u4", offset=4).tolist()
    if shape[1:] != item_shape:
        raise damaged(path, f"its items have shape {tuple(shape[1:])} instead of {tuple(item_shape)}")
    if shape[0] > MOST_ITEMS:
        raise damaged(path, f"its header promises {shape[0]:,} items, and at most {MOST_ITEMS:,} are read")
    return shape
