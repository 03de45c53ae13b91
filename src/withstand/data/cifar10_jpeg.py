"""CIFAR-10 as JPEG files: lossy, so near to CIFAR-10 but not it, and never labelled as it.

The files are read from ``cifar10_jpegs.tar.xz`` as it is, or from the unpacked folder
``cifar10_jpegs``; both hold ``train/CLASS/*.jpg`` and ``test/CLASS/*.jpg``.
"""

from __future__ import annotations

import hashlib
import logging
import lzma
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from withstand.core.dataset_info import DatasetInfo
from withstand.core.run_folder import put_in_place
from withstand.data.folder import Labelled, decode_split
from withstand.data.locations import cache_folder, damaged, missing, remove_left_overs, staged
from withstand.data.picture_files import Form, Picture
from withstand.data.split import Parts, Split
from withstand.types import DataError

_log = logging.getLogger(__name__)

ARCHIVE = "cifar10_jpegs.tar.xz"
FOLDER = "cifar10_jpegs"
# Part of the cache's key: raise it when decoding changes.
_VERSION = 1
_CHUNK = 2**20
# Many times what the archive has: 60,000 pictures of some kilobytes.
_MOST_MEMBERS = 200_000
_MOST_BYTES = 100_000


def read_cifar10_jpeg(info: DatasetInfo, root: Path) -> Parts:
    """Reads the JPEG files of CIFAR-10, decoded once and then cached.

    Args:
        info: The entry of ``cifar10-jpeg``.
        root: The data root.

    Returns:
        Both parts, sorted by class and file name.

    Raises:
        DataError: neither the archive nor the folder is there, one is damaged or holds other
            folders than the ten classes.
    """
    archive, folder = root / ARCHIVE, root / FOLDER
    if archive.is_file():
        return cached(info.name, _key([archive]), partial(_read_archive, info, archive))
    if folder.is_dir():
        return cached(info.name, _key(_jpegs(folder)), partial(_read_folder, info, folder))
    raise missing(info.name, root, absent_jpegs(root), "Copy them from where you keep them")


def absent_jpegs(root: Path) -> list[str]:
    """What to look for, where neither the archive nor the folder is there."""
    is_there = (root / ARCHIVE).is_file() or (root / FOLDER).is_dir()
    return [] if is_there else [f"{ARCHIVE} or {FOLDER}/"]


def _key(paths: Sequence[Path]) -> str:
    """A hash of names, sizes and times of change: 60,000 files are not read for it."""
    digest = hashlib.sha256(f"version {_VERSION}".encode())
    for path in paths:
        status = path.stat()
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _jpegs(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*/*.jpg"))


def _read_archive(info: DatasetInfo, path: Path) -> Parts:
    try:
        # "r|" reads the archive once from front to end, as its packing demands.
        with lzma.open(path) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                contents = dict(_contents(archive))
            # Tar stops at its own end: only at the end of the packing is it known to be whole.
            while stream.read(_CHUNK):
                pass
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise damaged(path, f"it cannot be unpacked ({error})") from error
    return _decode(info, path, contents)


def _contents(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for number, member in enumerate(archive):
        # Before any is read: a small archive may hold gigabytes of zeros.
        if number >= _MOST_MEMBERS or member.size > _MOST_BYTES:
            raise tarfile.TarError(
                f"{member.name} has {member.size:,} bytes and is member {number + 1:,}; at most "
                f"{_MOST_BYTES:,} bytes and {_MOST_MEMBERS:,} members are read"
            )
        file = archive.extractfile(member) if member.name.endswith(".jpg") else None
        if file is not None:
            yield str(PurePosixPath(member.name)), file.read()


def _read_folder(info: DatasetInfo, folder: Path) -> Parts:
    contents = {path.relative_to(folder).as_posix(): path for path in _jpegs(folder)}
    return _decode(info, folder, contents)


def _decode(info: DatasetInfo, source: Path, contents: Mapping[str, Path | bytes]) -> Parts:
    """Decodes what lies at ``train/CLASS/NAME.jpg`` and ``test/CLASS/NAME.jpg``."""
    items: dict[str, list[Labelled]] = {part: [] for part in Parts._fields}
    labels = {name: label for label, name in enumerate(info.class_names)}
    for name in sorted(contents):
        part, class_name, _ = _split_name(name)
        if part not in items or class_name not in labels:
            raise damaged(source, f"{name} is not in train/CLASS/ or test/CLASS/ of a class of CIFAR-10")
        items[part].append(Labelled(Picture(f"{source}/{name}", contents[name]), labels[class_name]))
    if not all(items.values()):
        raise damaged(source, "it lacks pictures in train/CLASS/*.jpg or test/CLASS/*.jpg")
    _, height, width = info.shape
    form = Form("RGB", width, height, resize=False)
    return Parts(*(decode_split(listed, form) for listed in items.values()))


def _split_name(name: str) -> tuple[str, str, str]:
    """Part, class and file name of a path in the archive; empty ones where there are too few."""
    part, class_name, file_name = ["", "", "", *PurePosixPath(name).parts][-3:]
    return part, class_name, file_name


def cached(name: str, key: str, build: Callable[[], Parts]) -> Parts:
    """What ``build`` returns, from the cache where it holds it.

    A cache that cannot be read or written costs time and a logged warning, never the run.

    Args:
        name: The data set.
        key: Hex string that changes whenever what ``build`` reads changes.
        build: Reads the data the slow way.
    """
    path = cache_folder() / f"{name}-{key}.safetensors"
    remove_left_overs(path.parent)
    if path.is_file():
        try:
            return _read(path)
        except (OSError, SafetensorError, KeyError, DataError) as error:
            _log.warning("Ignoring the damaged cache file %s: %s", path, error)
    parts = build()
    try:
        _write(path, parts)
    except (OSError, SafetensorError) as error:
        _log.warning("Cannot keep decoded images in %s, so the next run decodes again: %s", path, error)
    return parts


def _read(path: Path) -> Parts:
    tensors = load_file(path)
    return Parts(*(Split(tensors[f"{part}_images"], tensors[f"{part}_labels"]) for part in Parts._fields))


def _write(path: Path, parts: Parts) -> None:
    tensors = {f"{part}_images": split.images for part, split in parts._asdict().items()}
    tensors |= {f"{part}_labels": split.labels for part, split in parts._asdict().items()}
    # Written beside its place and moved in one step: a killed run leaves no half file.
    with staged(path.parent) as stage:
        save_file(tensors, stage / path.name)
        put_in_place(stage / path.name, path)
