"""Where data files lie and grow, and what to say when they are missing or damaged."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pooch

from withstand.types import DataError

NAME_THE_ROOT = "Another data root is named by --data.root or the environment variable WITHSTAND_DATA."

_STAGE = ".partial-"
_SECONDS_A_DAY = 86_400


def data_root(root: str | Path | None = None) -> Path:
    """The absolute data root: ``root``, else the variable ``WITHSTAND_DATA``, else ``./data``."""
    chosen = root if root is not None else os.environ.get("WITHSTAND_DATA") or "data"
    return Path(chosen).expanduser().absolute()


def cache_folder() -> Path:
    """The folder for decoded data: ``WITHSTAND_CACHE``, else the system's cache folder."""
    return Path(os.environ.get("WITHSTAND_CACHE") or pooch.os_cache("withstand")).expanduser()


def missing(name: str, folder: Path, files: Iterable[str], remedy: str) -> DataError:
    """The error for files that are not where they should be.

    Args:
        name: The data set.
        folder: Where they were looked for.
        files: Their names.
        remedy: A clause that says how to get them ("Run …").
    """
    return DataError(
        f"The data set {name} is not there: {folder} lacks {', '.join(files)}. "
        f"{remedy}, or put the files there by hand. {NAME_THE_ROOT}"
    )


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A temporary folder in ``folder``, where files are written before they are moved to their places.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_left_overs(folder)
    with TemporaryDirectory(dir=folder, prefix=f"{_STAGE}{platform.node()}-{os.getpid()}-") as stage:
        yield Path(stage)


def remove_left_overs(folder: Path) -> None:
    """Removes what killed processes left of ``staged`` in a folder.

    That is what a process of this machine made that is gone, and whatever is older than a day.
    """
    for left in folder.glob(f"{_STAGE}*"):
        if _is_left_over(left):
            shutil.rmtree(left, ignore_errors=True)


def _is_left_over(stage: Path) -> bool:
    try:
        if time.time() - stage.stat().st_mtime > _SECONDS_A_DAY:
            return True
        host, process, _ = stage.name.removeprefix(_STAGE).rsplit("-", 2)
        if host != platform.node() or os.name != "posix":
            return False
        os.kill(int(process), 0)  # asks whether it is there
    except ProcessLookupError:
        return True
    except (OSError, ValueError):  # it is gone already, another's process, or of another name
        return False
    return False


def damaged(path: Path, reason: str) -> DataError:
    """The error for a file that is there but cannot be what it should be."""
    return DataError(f"The file {path} is damaged: {reason}. Delete it and fetch it again.")
