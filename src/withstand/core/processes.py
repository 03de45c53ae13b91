"""The processes that work together on one job, each with its share of the examples.

All run the same code. The first of them alone reads and writes the run folder and talks; what it knows and
the others need is sent to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch.distributed as dist

from withstand.core.companions import GO_ON, removed_in_the_end, why_one_ended
from withstand.core.run_folder import RunFolder
from withstand.types import ProcessError

_Value = TypeVar("_Value")


def num_processes() -> int:
    """How many there are; 1 where no group of processes was started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if num_processes() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that reads, writes and talks."""
    return rank() == 0


def from_first(value: _Value) -> _Value:
    """What the first process has, in all of them; each waits for it.

    Args:
        value: Anything that pickle takes; that of other processes is ignored.
    """
    if num_processes() == 1:
        return value
    box = [value]
    with exchanging():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def from_all(value: _Value) -> list[_Value]:
    """What each process has, in order of their numbers; each waits for all.

    Args:
        value: Anything that pickle takes.
    """
    if num_processes() == 1:
        return [value]
    values: list[_Value | None] = [None] * num_processes()
    with exchanging():
        dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


@contextmanager
def exchanging() -> Iterator[None]:
    """Says of what goes wrong between processes what that means.

    Raises:
        ProcessError: another process has ended, or cannot be reached.
    """
    try:
        yield
    except RuntimeError as error:  # of gloo; those of NCCL are a kind of it
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        why = why_one_ended() or (
            "Another process of this job has ended, or cannot be reached; where it said why, that stands in "
            f"its own output ({reason})."
        )
        raise ProcessError(f"{why} {GO_ON}") from error


@contextmanager
def own_folder(run: RunFolder) -> Iterator[RunFolder]:
    """Where this process writes: the run folder itself if it is the first, else one that is not kept.

    Args:
        run: The run folder of the job.
    """
    if is_first():
        yield run
        return
    with TemporaryDirectory(prefix="withstand-") as folder, removed_in_the_end(Path(folder)):
        yield RunFolder(Path(folder))
