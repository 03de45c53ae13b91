"""The processes that one starts for its job, and what each of them does when another ends.

Whoever waits for another process learns from the exchange that it has ended. This is for those that do not:
they compute for long, or wait for what was never there, or on a device whose exchanges do not fail.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch.distributed as dist

from withstand.types import ProcessError

FIRST_PROCESS = "WITHSTAND_FIRST_PROCESS"
"""The environment variable by which a process knows which one started it."""
GO_ON = "The same command goes on from what is stored."

_POLL = 0.2  # seconds
_GRACE = 5.0  # seconds that a process has to notice, and to say so, by itself
_SOON = 2.0  # seconds
_STATUS = 2  # of a process that ends, as for every error of surroundings
_children: list[subprocess.Popen[bytes]] = []  # that this process started, in order of their numbers
_left_behind: set[Path] = set()
_part = 0  # of the job, in all its processes
_has_failed = False  # that part, here


@contextmanager
def working_together() -> Iterator[None]:
    """A part of a job, within which processes wait for each other; all enter and leave it alike.

    Where one that this process depends on is gone, and it has not noticed by itself, it is ended: that is for
    one that was started the first process, and for the first each that it started. The reason goes to
    standard error.

    Raises:
        ProcessError: the part before it ended by an error here, and not so in all processes.
    """
    global _part
    if _has_failed and not _have_all_failed():
        raise ProcessError(
            "The part of this job before this one ended by an error in some of its processes alone, so that "
            "they no longer work on the same. Start the program anew."
        )
    _part += 1
    is_left = Event()
    Thread(target=_watch, args=(is_left,), name="withstand-companions", daemon=True).start()
    try:
        with _telling():
            yield
    finally:
        is_left.set()


@contextmanager
def _telling() -> Iterator[None]:
    """Notes for the others by what error this process ends within."""
    global _has_failed
    _has_failed = True
    try:
        yield
    except ProcessError:  # is of another process
        raise
    except Exception as error:
        if _num_processes() > 1:
            with suppress(RuntimeError):  # the first, whose store it is, is gone
                _store().set(_key(dist.get_rank()), f"{type(error).__name__}: {error}")
        raise
    _has_failed = False


def why_one_ended() -> str:
    """A sentence on another process that ended badly, as far as it is known; else empty."""
    if was_started():
        return _soon(_of_first)
    return _error_told() or (_soon(_of_children) if _children else "")


def was_started() -> bool:
    """Whether the first process of a job started this one."""
    return os.environ.get(FIRST_PROCESS) not in (None, str(os.getpid()))


def started(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Notes processes that were started for this one's job; it ends after them, as far as they end soon.

    Args:
        children: In order of their numbers, from 1.
    """
    if not _children:
        atexit.register(_wait_for_children)
    _children.extend(children)


def _error_told() -> str:
    with suppress(RuntimeError):  # the store is gone
        for rank in range(1, _num_processes()):
            if _store().check([_key(rank)]):
                return f"Process {rank} of this job ended: {_store().get(_key(rank)).decode()}"
    return ""


def _have_all_failed() -> bool:
    if _num_processes() == 1:
        return True
    try:
        _store().wait([_key(rank) for rank in range(_num_processes())], timedelta(seconds=_GRACE))
    except RuntimeError:  # one has come to no end, or is gone
        return False
    return True


def _key(rank: int) -> str:
    return f"withstand/error/{_part}/{rank}"


def _store() -> Any:
    """Where all processes can read what one has written; it is the first's."""
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()


def _num_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextmanager
def removed_in_the_end(folder: Path) -> Iterator[None]:
    """Removes a folder also where ``watched`` ends the process within."""
    _left_behind.add(folder)
    try:
        yield
    finally:
        _left_behind.discard(folder)


def _watch(is_left: Event) -> None:
    while not is_left.wait(_POLL):
        text = _of_first() or _of_children()
        if text and not is_left.wait(_GRACE):
            with suppress(OSError, ValueError):
                sys.stdout.flush()
            _say(text)
            for folder in _left_behind:
                shutil.rmtree(folder, ignore_errors=True)
            for child in _children:
                child.kill()
            os._exit(_STATUS)


def _say(text: str) -> None:
    if os.environ.get("LOCAL_RANK", "0") in ("0", "1"):  # of those that the first one left behind, one
        with suppress(OSError):
            os.write(2, f"error: {text} {GO_ON}\n".encode())


def _soon(sentence: Callable[[], str]) -> str:
    """What is true a little after an exchange with a process failed, which ends then."""
    until = time.monotonic() + _SOON
    while not (text := sentence()) and time.monotonic() < until:
        time.sleep(0.02)
    return text


def _of_first() -> str:
    is_gone = was_started() and os.getppid() != int(os.environ[FIRST_PROCESS])
    return "The first process of this job was killed." if is_gone else ""


def _of_children() -> str:
    for number, child in enumerate(_children, start=1):
        if code := child.poll():
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            return f"Process {number} of this job (pid {child.pid}) {how}."
    return ""


def _wait_for_children() -> None:
    with suppress(RuntimeError):
        if _num_processes() > 1:
            dist.destroy_process_group()  # by which those that wait for this process learn that it ends
    until = time.monotonic() + _GRACE
    for child in _children:
        with suppress(subprocess.TimeoutExpired):  # it then ends by itself, when its own work is done
            child.wait(max(0.0, until - time.monotonic()))
