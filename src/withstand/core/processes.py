"""The processes that work together on one job, each with its share of the examples.

All run the same code. The first of them alone reads and writes the run folder and talks; what it knows and
the others need is sent to them.
"""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist

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
    dist.all_gather_object(values, value)
    return [each for each in values if each is not None]
