"""Data sets by name.

The 8 x 8 handwritten digits come inside scikit-learn: data without any download.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from withstand.core.dataset_info import KNOWN_DATASETS, DatasetInfo
from withstand.core.setting_rules import SEED, Whole
from withstand.core.suggest import nearest
from withstand.data.cifar import CIFAR10, CIFAR100, read_cifar
from withstand.data.cifar10_jpeg import absent_jpegs, read_cifar10_jpeg
from withstand.data.folder import ImageFolder, list_folder
from withstand.data.idx import absent_idx, read_idx
from withstand.data.locations import data_root
from withstand.data.partition import PARTITIONS, PartitionName
from withstand.data.plausible import copies, darkness, missing_classes, tell
from withstand.data.split import Dataset, Parts, Split
from withstand.types import DataError

NUM_TEST = 360
# What the test data are never depends on a user's seed.
_TEST_SEED = 20_200_331
_MAX_LEVEL = 16


def read_digits(info: DatasetInfo, root: Path) -> Parts:
    """The 1,797 digits: 1,437 to train on, 360 to test on, always the same ones.

    Args:
        info: The entry of ``digits``.
        root: Ignored; scikit-learn brings the data.

    Returns:
        Both parts, in scikit-learn's order; levels 0 … 16 are scaled to 0 … 255.
    """
    # scikit-learn takes a second to import, and no other data set needs it.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    levels = torch.tensor(bunch.images, dtype=torch.float64)
    images = (levels * 255 / _MAX_LEVEL).round().to(torch.uint8).reshape(-1, *info.shape)
    every = Split(images, torch.tensor(bunch.target, dtype=torch.int64))
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(_TEST_SEED))
    test, train = order[:NUM_TEST], order[NUM_TEST:]
    return Parts(every.subset(train.sort().values), every.subset(test.sort().values))


READERS: dict[str, Callable[[DatasetInfo, Path], Parts]] = {
    "digits": read_digits,
    "mnist": partial(read_idx, folder="MNIST/raw"),
    "fashion-mnist": partial(read_idx, folder="FashionMNIST/raw"),
    "cifar10": partial(read_cifar, files=CIFAR10),
    "cifar100": partial(read_cifar, files=CIFAR100),
    "cifar10-jpeg": read_cifar10_jpeg,
}

_ABSENT: dict[str, Callable[[Path], Sequence[str]]] = {
    "digits": lambda _: (),  # they come with scikit-learn
    "mnist": partial(absent_idx, folder="MNIST/raw"),
    "fashion-mnist": partial(absent_idx, folder="FashionMNIST/raw"),
    "cifar10": CIFAR10.absent,
    "cifar100": CIFAR100.absent,
    "cifar10-jpeg": absent_jpegs,
}

_FOLDER = "folder:"
NAMES = (*READERS, f"{_FOLDER}PATH")


def load(
    name: str,
    *,
    root: str | Path | None = None,
    size: int | None = None,
    validation_size: int | None = None,
    train_size: int | None = None,
    partition: PartitionName = "seeded",
    seed: int = 0,
) -> Dataset:
    """Reads a data set and takes validation data out of its training data.

    Args:
        name: ``digits``, ``mnist``, ``fashion-mnist``, ``cifar10``, ``cifar100``,
            ``cifar10-jpeg``, or ``folder:PATH`` for a folder of pictures.
        root: The data root; by default ``WITHSTAND_DATA``, else ``./data``.
        size: Side in pixels that the pictures of a folder are resized and cropped to.
        validation_size: How many examples validate; by default a tenth of the training data,
            at most 5000, and 10,000 in ``kernel-reg``.
        train_size: How many of the others train; by default all.
        partition: How examples are chosen: ``seeded`` as ``partition`` does it, ``kernel-reg`` as
            published in arXiv 1810.00363 (``published_partition``).
        seed: Chooses which examples validate and train; the same ones on any machine.

    Returns:
        The data set, on the CPU. Its test data are the same whatever the options.

    Raises:
        DataError: a name is unknown, files are missing or damaged, or a size does not fit.
        TypeError: a size or the seed is no number.
        ValueError: one is not whole, or the seed is out of its range.
    """
    if partition not in PARTITIONS:
        raise DataError(f"There is no partition {partition!r}; {nearest(partition, PARTITIONS)}")
    seed = (SEED if partition == "seeded" else Whole())("seed", seed)
    folder = _image_folder(name, size)
    if folder is not None:
        about, parts = folder.info(), folder.read()
    else:
        about = KNOWN_DATASETS[name]
        parts = READERS[name](about, data_root(root))
    train, validation = PARTITIONS[partition](
        parts.train, validation_size=validation_size, train_size=train_size, seed=seed
    )
    dataset = Dataset(about, train, validation, parts.test)
    tell(dataset, missing_classes, *(() if folder is None else (darkness, copies)))
    if is_folder(name):  # which is to be found from other folders, too
        name = f"{_FOLDER}{Path(name.removeprefix(_FOLDER)).expanduser().resolve()}"
    chosen = {"validation_size": validation_size, "train_size": train_size, "partition": partition}
    root = None if root is None else str(Path(root).resolve())
    return dataset.found_by({"name": name, "root": root, "size": size, **chosen, "seed": seed})


def info(name: str, *, root: str | Path | None = None, size: int | None = None) -> DatasetInfo:
    """What a model needs to know of a data set; needs no files, except for a folder's.

    Args:
        name: As for ``load``.
        root: The data root; taken so that both functions have the same arguments, not read.
        size: As for ``load``.

    Raises:
        DataError: the name is unknown, or a folder of pictures cannot be read.
    """
    folder = _image_folder(name, size)
    return KNOWN_DATASETS[name] if folder is None else folder.info()


def is_present(name: str, root: Path) -> bool:
    """Whether ``load`` would find the files of a data set; they are not read.

    Args:
        name: A data set with a name of its own, or ``folder:PATH``, which is never there by name.
        root: The data root.
    """
    return name in _ABSENT and not _ABSENT[name](root)


def is_folder(name: str) -> bool:
    """Whether a name is that of a folder of pictures, which are resized."""
    return name.startswith(_FOLDER) and name != _FOLDER


def _image_folder(name: str, size: int | None) -> ImageFolder | None:
    """The folder that ``folder:PATH`` names, or None for the name of a known data set."""
    if not isinstance(name, str):
        hint = f"folder:{name}" if isinstance(name, Path) else "digits"
        raise DataError(f"A data set is named by a text, such as {hint!r}, but this is {name!r}.")
    if is_folder(name):
        return list_folder(Path(name.removeprefix(_FOLDER)).expanduser(), size=size)
    if name not in KNOWN_DATASETS:
        raise DataError(f"There is no data set {name!r}; {nearest(name.lower().replace('_', '-'), NAMES)}")
    if size is not None:
        raise DataError(f"Only pictures of a folder are resized, so {name} takes no size, but it is {size}.")
    return None
