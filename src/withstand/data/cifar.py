"""The binary version of CIFAR-10 and CIFAR-100: fixed-length records, no pickle.

A record is one label byte (CIFAR-100: coarse, then fine), then 3,072 bytes of red, green and
blue planes, row by row (https://www.cs.toronto.edu/~kriz/cifar.html).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from withstand.core.dataset_info import DatasetInfo
from withstand.data.locations import damaged, missing
from withstand.data.split import Parts, Split


@dataclass(frozen=True)
class CifarFiles:
    """How a CIFAR data set is cut into files.

    Attributes:
        folder: Where below the data root they lie.
        train: File name -> number of records, in order.
        test: The same for the test file.
        label_bytes: Bytes before the pixels; the last of them is the label.
    """

    folder: str
    train: dict[str, int]
    test: dict[str, int]
    label_bytes: int

    @property
    def sizes(self) -> dict[str, int]:
        """File name -> length in bytes of its 32 x 32 colour records."""
        record = self.label_bytes + 3 * 32 * 32
        return {name: count * record for name, count in {**self.train, **self.test}.items()}

    def absent(self, root: Path) -> list[str]:
        """Names of the files that are not there."""
        return [name for name in self.sizes if not (root / self.folder / name).is_file()]


CIFAR10 = CifarFiles(
    folder="cifar-10-batches-bin",
    train={f"data_batch_{number}.bin": 10_000 for number in range(1, 6)},
    test={"test_batch.bin": 10_000},
    label_bytes=1,
)
CIFAR100 = CifarFiles(
    folder="cifar-100-binary", train={"train.bin": 50_000}, test={"test.bin": 10_000}, label_bytes=2
)


def read_cifar(info: DatasetInfo, root: Path, *, files: CifarFiles) -> Parts:
    """Reads the binary files of CIFAR-10 or CIFAR-100 (fine labels).

    Args:
        info: Which data set.
        root: The data root.
        files: Its files.

    Returns:
        Both parts, in the order of the files.

    Raises:
        DataError: a file is missing or has another length than it should.
    """
    folder, absent = root / files.folder, files.absent(root)
    if absent:
        raise missing(info.name, folder, absent, f"Run `withstand data fetch {info.name}`")
    return Parts(*(_read_split(folder, part, files, info) for part in (files.train, files.test)))


def _read_split(folder: Path, counts: dict[str, int], files: CifarFiles, info: DatasetInfo) -> Split:
    record = files.label_bytes + math.prod(info.shape)
    images = np.empty((sum(counts.values()), *info.shape), np.uint8)
    labels = np.empty(len(images), np.int64)
    start = 0
    for name, count in counts.items():
        records = _read_records(folder / name, count, record)
        images[start : start + count] = records[:, files.label_bytes :].reshape(-1, *info.shape)
        labels[start : start + count] = records[:, files.label_bytes - 1]
        start += count
    return Split(torch.from_numpy(images), torch.from_numpy(labels))


def _read_records(path: Path, count: int, length: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    if path.stat().st_size != count * length:
        raise damaged(path, f"it has {path.stat().st_size} bytes instead of {count * length}")
    return np.fromfile(path, np.uint8).reshape(count, length)
