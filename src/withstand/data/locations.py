"""Where data files lie, and what to say when they are missing or damaged."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from withstand.types import DataError

NAME_THE_ROOT = "Another data root is named by --data.root or the environment variable WITHSTAND_DATA."


def data_root(root: str | Path | None = None) -> Path:
    """The absolute data root: ``root``, else the variable ``WITHSTAND_DATA``, else ``./data``."""
    chosen = root if root is not None else os.environ.get("WITHSTAND_DATA") or "data"
    return Path(chosen).expanduser().absolute()


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


def damaged(path: Path, reason: str) -> DataError:
    """The error for a file that is there but cannot be what it should be."""
    return DataError(f"The file {path} is damaged: {reason}. Delete it and fetch it again.")
