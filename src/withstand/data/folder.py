"""A folder of pictures as a data set: ``PATH/train/CLASS/*.png`` and ``PATH/test/CLASS/*.png``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch

from withstand.core.dataset_info import DatasetInfo
from withstand.data.picture_files import Form, Picture, decode, form_of
from withstand.data.split import Parts, Split, channel_statistics
from withstand.types import DataError

_log = logging.getLogger(__name__)

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
# Mean and std are measured on this many training pictures, evenly spread: decoding more
# would move them by less than a hundredth of a std.
_NUM_MEASURED = 2000


class Labelled(NamedTuple):
    """A picture file and the number of its class."""

    picture: Picture
    label: int


@dataclass(frozen=True)
class ImageFolder:
    """The pictures of a folder, listed but not decoded.

    Attributes:
        path: The folder.
        class_names: Sorted names of the folders in ``train``.
        train: Training pictures, sorted by class and file name.
        test: Test pictures, sorted likewise.
        form: What each picture is turned into.
    """

    path: Path
    class_names: tuple[str, ...]
    train: list[Labelled]
    test: list[Labelled]
    form: Form

    def info(self) -> DatasetInfo:
        """Shape, classes, and mean and std measured on at most 2,000 training pictures."""
        count = min(_NUM_MEASURED, len(self.train))
        measured = [self.train[index * len(self.train) // count].picture for index in range(count)]
        mean, std = channel_statistics(decode(measured, self.form, say=_log.debug))
        return DatasetInfo(f"folder:{self.path}", self.form.shape, self.class_names, mean, std)

    def read(self) -> Parts:
        """Decodes all pictures."""
        return Parts(decode_split(self.train, self.form), decode_split(self.test, self.form))


def list_folder(path: Path, *, size: int | None = None) -> ImageFolder:
    """Lists the pictures below ``path`` (png, jpg, jpeg, bmp, webp).

    Args:
        path: Holds a folder ``train`` and a folder ``test`` with one folder a class.
        size: Side in pixels to resize and crop to; without it all pictures must be of one size.

    Raises:
        DataError: a folder is missing or holds no pictures, or a class is only in ``test``.
    """
    class_names = tuple(sorted(folder.name for folder in _class_folders(path / "train")))
    tested = {folder.name for folder in _class_folders(path / "test")}
    if unknown := tested - {*class_names}:
        untested = sorted({*class_names} - tested)
        renamed = f"Was one renamed? In test there is no {', '.join(untested)}. " if untested else ""
        raise DataError(
            f"{path / 'test'} has classes that {path / 'train'} lacks: {', '.join(sorted(unknown))}. "
            f"{renamed}A class must be trained on to be tested: add training pictures or remove the test "
            "folder of it."
        )
    _tell_unread(path)
    train = [item for label, name in enumerate(class_names) for item in _list(path / "train" / name, label)]
    test = [item for label, name in enumerate(class_names) for item in _list(path / "test" / name, label)]
    bare = [name for label, name in enumerate(class_names) if all(item.label != label for item in train)]
    if bare or not test:
        empty = path / "train" / bare[0] if bare else path / "test"
        raise DataError(f"{empty} holds no pictures ({', '.join(sorted(SUFFIXES))}). Add some or remove it.")
    return ImageFolder(path, class_names, train, test, form_of(train[0].picture, size))


def decode_split(items: list[Labelled], form: Form) -> Split:
    """Decodes labelled pictures, in their order."""
    pictures = [item.picture for item in items]
    images = decode(pictures, form, key=_key(pictures, form))
    return Split(images, torch.tensor([item.label for item in items]))


def _key(pictures: Sequence[Picture], form: Form) -> str:
    """Changes with the form, and where a file is another or was written to; empty of what is no file."""
    paths = [picture.content for picture in pictures if isinstance(picture.content, Path)]
    files = [(str(path.absolute()), (about := path.stat()).st_size, about.st_mtime_ns) for path in paths]
    return sha256(f"{form} {files}".encode()).hexdigest()[:32] if len(files) == len(pictures) else ""


def _tell_unread(path: Path) -> None:
    """Logs what lies in the folder but is not read, since it may be meant to be."""
    parts = [path / "train", path / "test"]
    loose = [entry for part in parts for entry in part.iterdir() if entry.is_file()]
    inside = [entry for part in parts for folder in _class_folders(part) for entry in folder.iterdir()]
    unread = [*loose, *(entry for entry in inside if not _is_picture(entry))]
    unread = [entry for entry in unread if not entry.name.startswith(".")]
    if unread:
        _log.warning(
            "%s files or folders are not read, such as %s: pictures (%s) belong in %s/train/CLASS/ and "
            "%s/test/CLASS/.",
            f"{len(unread):,}",
            min(unread),
            ", ".join(sorted(SUFFIXES)),
            path,
            path,
        )


def _class_folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise DataError(
            f"The image folder {path.parent} has no folder {path.name}. Pictures belong in "
            f"{path.parent}/train/CLASS/ and {path.parent}/test/CLASS/."
        )
    folders = [entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    if not folders:
        raise DataError(f"{path} has no class folders. Pictures belong in {path}/CLASS/.")
    return folders


def _list(folder: Path, label: int) -> list[Labelled]:
    if not folder.is_dir():
        return []
    paths = sorted(path for path in folder.iterdir() if _is_picture(path))
    return [Labelled(Picture(str(path), path), label) for path in paths]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
