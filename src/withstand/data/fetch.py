"""Downloads, checked by hash, into the standard folders below the data root.

Files are loaded beside their place and moved there only when their hash is correct, so that a
failure or a kill never leaves a half file that looks whole.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pooch
from typing_extensions import override

from withstand.core.run_folder import put_in_place
from withstand.data.cifar import CIFAR10, CIFAR100, CifarFiles
from withstand.data.idx import GZIP_ERRORS, find_idx, open_idx
from withstand.data.locations import NAME_THE_ROOT, damaged, data_root, staged
from withstand.types import DataError

_log = logging.getLogger(__name__)
_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Remote(ABC):
    """The interface of a place that files are fetched from.

    Args:
        base_url: What file names are appended to; ends in a slash.
        folder: Where below the data root the files belong.
    """

    base_url: str
    folder: str

    @abstractmethod
    def missing(self, root: Path) -> list[str]:
        """Names to download: of files that are not yet whole below ``root``."""

    @abstractmethod
    def place(self, download: Path, folder: Path) -> None:
        """Checks a downloaded file and moves what belongs there into ``folder``.

        Raises:
            DataError: its hash is another one than expected.
        """

    @abstractmethod
    def paths(self, root: Path) -> list[Path]:
        """Where the files are once all are there."""

    @abstractmethod
    def verify(self, root: Path) -> None:
        """Checks the files that are there against the known hashes.

        Raises:
            DataError: a file is missing or differs, or no hashes are known.
        """


@dataclass(frozen=True)
class RemoteIdx(Remote):
    """Gzipped idx files.

    The hashes are of the unpacked contents, because packed copies differ from mirror to mirror.

    Args:
        base_url: What file names are appended to; ends in a slash.
        folder: Where below the data root the files belong.
        hashes: Name without ``.gz`` -> md5 of the unpacked content.
    """

    hashes: Mapping[str, str]

    @override
    def missing(self, root: Path) -> list[str]:
        return [f"{name}.gz" for name in self.hashes if not self._is_whole(root / self.folder, name)]

    @override
    def place(self, download: Path, folder: Path) -> None:
        _require_hash(f"{self.base_url}{download.name}", _content_md5(download), self.hashes[download.stem])
        put_in_place(download, folder / download.name)

    @override
    def paths(self, root: Path) -> list[Path]:
        paths = (find_idx(root / self.folder, name) for name in self.hashes)
        return [path for path in paths if path is not None]

    @override
    def verify(self, root: Path) -> None:
        for name, expected in self.hashes.items():
            path = find_idx(root / self.folder, name)
            if path is None:
                raise DataError(f"The file {root / self.folder / name}.gz is missing. {NAME_THE_ROOT}")
            actual = _content_md5(path)
            if actual != expected:
                raise damaged(path, f"its content has md5 {actual} instead of {expected}")

    def _is_whole(self, folder: Path, name: str) -> bool:
        path = find_idx(folder, name)
        return path is not None and _content_md5(path) == self.hashes[name]


@dataclass(frozen=True)
class RemoteArchive(Remote):
    """One .tar.gz archive from which some files are taken.

    Args:
        base_url: What the archive's name is appended to; ends in a slash.
        folder: Where below the data root the files belong; also their folder in the archive.
        archive: The archive's name.
        md5: Its hash.
        sizes: File name -> length in bytes.
    """

    archive: str
    md5: str
    sizes: Mapping[str, int]

    @override
    def missing(self, root: Path) -> list[str]:
        files = {root / self.folder / name: size for name, size in self.sizes.items()}
        whole = all(file.is_file() and file.stat().st_size == size for file, size in files.items())
        return [] if whole else [self.archive]

    @override
    def place(self, download: Path, folder: Path) -> None:
        _require_hash(f"{self.base_url}{download.name}", pooch.file_hash(str(download), alg="md5"), self.md5)
        targets = {f"{self.folder}/{name}": download.with_name(name) for name in self.sizes}
        _unpack(download, targets)
        for target in targets.values():
            put_in_place(target, folder / target.name)

    @override
    def paths(self, root: Path) -> list[Path]:
        return [root / self.folder / name for name in self.sizes]

    @override
    def verify(self, root: Path) -> None:
        raise DataError(
            f"Hashes are published for {self.archive}, not for the files in it. To be sure of "
            f"{root / self.folder}, delete it and fetch it again: fetching checks the archive's hash."
        )


def _cifar(name: str, md5: str, files: CifarFiles) -> RemoteArchive:
    return RemoteArchive("https://www.cs.toronto.edu/~kriz/", files.folder, name, md5, files.sizes)


REMOTES: dict[str, Remote] = {
    "mnist": RemoteIdx(
        base_url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        folder="MNIST/raw",
        hashes={
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        },
    ),
    "fashion-mnist": RemoteIdx(
        base_url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        folder="FashionMNIST/raw",
        hashes={
            "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
            "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
            "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
        },
    ),
    "cifar10": _cifar("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", CIFAR10),
    "cifar100": _cifar("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", CIFAR100),
}


def fetch(name: str, root: str | Path | None = None, *, base_url: str | None = None) -> list[Path]:
    """Downloads a data set's files that are not there yet, or not whole.

    Args:
        name: ``mnist``, ``fashion-mnist``, ``cifar10`` or ``cifar100``.
        root: The data root; by default ``WITHSTAND_DATA``, else ``./data``.
        base_url: A mirror that has the same file names.

    Returns:
        Where the files are.

    Raises:
        DataError: the data set is not one of these, the server cannot be reached, a hash is
            wrong, or the root cannot be written.
    """
    remote = _remote(name)
    if base_url is not None:
        remote = replace(remote, base_url=base_url.rstrip("/") + "/")
    place = data_root(root)
    names = remote.missing(place)
    if names:
        _fetch_into(place, remote, names)
    return remote.paths(place)


def verify(name: str, root: str | Path | None = None) -> None:
    """Compares files that are there with the known hashes; ``load`` checks only their form.

    Args:
        name: ``mnist`` or ``fashion-mnist``.
        root: The data root; by default ``WITHSTAND_DATA``, else ``./data``.

    Raises:
        DataError: a file is missing or differs, or no hashes are known for its data set.
    """
    _remote(name).verify(data_root(root))


def _remote(name: str) -> Remote:
    if name not in REMOTES:
        raise DataError(
            f"There is no download of the data set '{name}'; there is one of: {', '.join(REMOTES)}. "
            "The digits come with scikit-learn, and pictures are put in their folder by hand."
        )
    return REMOTES[name]


def _fetch_into(root: Path, remote: Remote, names: list[str]) -> None:
    try:
        (root / remote.folder).mkdir(parents=True, exist_ok=True)
        with staged(root) as stage:
            for name in names:
                target = stage / name
                _download(f"{remote.base_url}{name}", target, root / remote.folder)
                remote.place(target, root / remote.folder)
    except OSError as error:
        raise DataError(f"Cannot write to the data root {root}: {error}. {NAME_THE_ROOT}") from error


def _download(url: str, target: Path, folder: Path) -> None:
    _log.info("fetching %s", url)
    download = pooch.HTTPDownloader(chunk_size=1 << 16, timeout=_TIMEOUT_SECONDS)
    try:
        download(url, str(target), None)
    except OSError as error:
        what = "the files of its archive" if target.name.endswith(".tar.gz") else "it and its sister files"
        raise DataError(
            f"Cannot fetch {url}: {error}. Try again, or, where this machine has no network, fetch "
            f"{target.name} elsewhere and put {what} into {folder} by hand. {NAME_THE_ROOT}"
        ) from error


def _require_hash(url: str, actual: str, expected: str) -> None:
    if actual != expected:
        raise DataError(
            f"What came from {url} has md5 {actual} instead of {expected}, so it was thrown away. "
            "Try again later or from another mirror: it may be cut short, changed, or a login page."
        )


def _content_md5(path: Path) -> str:
    """The md5 of a file's unpacked content, or a word that equals no hash where it is damaged."""
    try:
        with open_idx(path) as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except GZIP_ERRORS:
        return "(cannot be unpacked)"


def _unpack(path: Path, targets: Mapping[str, Path]) -> None:
    """Copies the members that are keys of ``targets``, and nothing else, to where these say."""
    with tarfile.open(path, "r|gz") as archive:
        for member in archive:
            source = archive.extractfile(member) if member.name in targets else None
            if source is not None:
                with source, targets[member.name].open("wb") as file:
                    shutil.copyfileobj(source, file)
    absent = [name for name, target in targets.items() if not target.is_file()]
    if absent:
        raise DataError(f"The archive {path.name} lacks {', '.join(absent)}. Fetch another copy of it.")
