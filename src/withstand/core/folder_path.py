"""What the path of a run folder may be, and that nothing in the folder leads out of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from withstand.types import RunFolderError

_LONGEST_NAME = 255  # bytes, as file systems have it
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(?:::[^/]+)*:/")  # of a Path a slash has gone; C: is none


def is_url(place: Path | str) -> bool:
    """Whether a place is named by a URL, such as ``s3://bucket/sweep``."""
    return _URL.match(str(place)) is not None


def as_folder_path(out: Path | str) -> Path:
    """The path that someone gave, ``~`` at its beginning being the home folder.

    Raises:
        TypeError: it is no path.
        RunFolderError: it is empty, a URL, cannot be written as text, or is longer than file systems take.
    """
    if not isinstance(out, str | Path):
        raise TypeError(f"Expected the path of a run folder, but got {out!r}.")
    if is_url(out):
        raise RunFolderError(
            f"{out} is a URL, and a folder is needed here: only `withstand sweep … --out=URL` takes one. "
            "Copy what lies there into a folder first."
        )
    if not str(out).strip() or "\0" in str(out):
        raise RunFolderError("The path of the run folder is empty. Name a folder: --out=runs/mine.")
    try:
        str(out).encode()
    except UnicodeEncodeError as error:
        raise RunFolderError(
            f"The path {str(out)!a} is not UTF-8, so it cannot be written down. Choose another folder."
        ) from error
    if len(str(out).splitlines()) > 1:
        raise RunFolderError(
            f"The path {str(out)!r} has a line break, so it cannot be written in one line. Choose another "
            "folder."
        )
    path = _from_home(Path(out))
    for part in path.parts:
        if (length := len(part.encode())) > _LONGEST_NAME:
            raise RunFolderError(
                f"The name {part[:20]}… of a folder is {length} bytes long, and file systems take "
                f"{_LONGEST_NAME}. Choose a shorter one."
            )
    return path


def _from_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise RunFolderError(
            f"{path} begins with a home folder that is not known. Write ./{path} for a folder of that name."
        ) from error


def require_no_links(folder: Path, names: Iterable[str]) -> None:
    """Refuses a folder in which a symbolic link stands where a file of the run belongs.

    What is written or deleted by such a name would be elsewhere. The folder may be reached by a link itself.

    Args:
        folder: The run folder, which need not exist.
        names: Of all that is written there.

    Raises:
        RunFolderError: there is a link; the text names it.
    """
    for file in (folder / name for name in names):
        if file.is_symlink():
            raise RunFolderError(
                f"{file} is a symbolic link, and what is written or deleted there would be elsewhere. Remove "
                "the link, or choose another folder with --out, or out= in Python."
            )
