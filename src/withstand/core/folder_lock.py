"""Keeps others from writing to a folder meanwhile."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from threading import get_ident

from filelock import BaseFileLock, FileLock, Timeout

from withstand.types import RunFolderError

_LOCK, _HOLDER = LOCK_FILES = (".lock", ".holder")
_HOLDING: dict[str, int] = {}
"""File of a lock that this process holds -> the thread that does."""
_logger = logging.getLogger(__name__)


@contextmanager
def held(folder: Path, doing: str, *, cleaned: Sequence[Path]) -> Iterator[None]:
    """Keeps other processes and threads from writing; a process that ends lets go of the folder.

    Args:
        folder: What is held.
        doing: What is done, for whoever comes second: ``evaluating``.
        cleaned: The folders from which the parts of files are removed that a killed process left.

    Raises:
        RunFolderError: another process or thread holds it, which the text names; or it cannot be written.
    """
    lock = FileLock(folder / _LOCK, is_singleton=True, thread_local=False)
    holder = folder / _HOLDER
    is_first = _acquire(lock, folder)
    try:
        if is_first:
            _take(holder, doing, cleaned)
        yield
    finally:
        if is_first:
            _HOLDING.pop(lock.lock_file, None)
            holder.unlink(missing_ok=True)
        lock.release()


def wait_until_free(folder: Path, seconds: float) -> None:
    """Waits while another process holds a folder, such as one that is about to end.

    Args:
        folder: It need not exist.
        seconds: The longest to wait; whoever takes the folder then finds out.
    """
    if (folder / _LOCK).exists():
        lock = FileLock(folder / _LOCK, thread_local=False)
        with suppress(Timeout, NotImplementedError, OSError), lock.acquire(timeout=seconds):
            pass


def _acquire(lock: BaseFileLock, folder: Path) -> bool:
    """Takes the lock; whether this process did not have it before."""
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        holder = folder / _HOLDER
        known = holder.read_text() if holder.exists() else "another process"
        raise RunFolderError(
            f"{folder} is in use by {known}. Wait until it is done, or choose another folder."
        ) from error
    except NotImplementedError:  # as some network file systems have it
        _logger.warning("The file system of %s has no locks: let one process at a time write.", folder)
        return False
    except OSError as error:
        raise RunFolderError(f"Cannot write {folder}: {error.strerror or error}.") from error
    if _HOLDING.setdefault(lock.lock_file, get_ident()) != get_ident():
        lock.release()
        raise RunFolderError(
            f"{folder} is in use by another thread of this process. Wait until it is done, or choose another "
            "folder."
        )
    return lock.lock_counter == 1


def _take(holder: Path, doing: str, cleaned: Sequence[Path]) -> None:
    """Says who holds the folder, and removes what a process left that was killed while it wrote."""
    since = datetime.now().isoformat(" ", timespec="seconds")
    try:
        holder.write_text(f"process {os.getpid()} on {platform.node()}, {doing} since {since}")
        for partial_file in (file for folder in cleaned for file in folder.glob(".*.part")):
            partial_file.unlink(missing_ok=True)
    except OSError as error:
        raise RunFolderError(f"Cannot write {holder.parent}: {error.strerror or error}.") from error
