"""Whether the files of a data set are there, without reading them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from withstand.data import cifar10_jpeg
from withstand.data.cifar import CIFAR10, CIFAR100, CifarFiles
from withstand.data.idx import IDX_FILES, find_idx

__all__ = ["is_present"]


def is_present(name: str, root: Path) -> bool:
    """Whether ``load`` would find the files of a data set.

    Args:
        name: A data set with a name of its own, or ``folder:PATH``, which is never there by name.
        root: The data root.
    """
    return name in _FINDERS and _FINDERS[name](root)


def _has_idx(root: Path, folder: str) -> bool:
    return all(find_idx(root / folder, name) is not None for name in IDX_FILES)


def _has_cifar(root: Path, files: CifarFiles) -> bool:
    return all((root / files.folder / name).is_file() for name in files.sizes)


def _has_jpegs(root: Path) -> bool:
    return (root / cifar10_jpeg.ARCHIVE).is_file() or (root / cifar10_jpeg.FOLDER).is_dir()


_FINDERS: dict[str, Callable[[Path], bool]] = {
    "digits": lambda _: True,  # they come with scikit-learn
    "mnist": partial(_has_idx, folder="MNIST/raw"),
    "fashion-mnist": partial(_has_idx, folder="FashionMNIST/raw"),
    "cifar10": partial(_has_cifar, files=CIFAR10),
    "cifar100": partial(_has_cifar, files=CIFAR100),
    "cifar10-jpeg": _has_jpegs,
}
