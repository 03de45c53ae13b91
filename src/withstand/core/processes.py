"""The processes that work together on one job, each with its share of the examples.

All run the same code. The first of them alone reads and writes the run folder and talks; what it knows and
the others need is sent to them. A process that ends is noticed at once by those that wait for it.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from withstand.core.companions import GO_ON, removed_in_the_end, why_one_ended
from withstand.core.failures import Failure
from withstand.core.run_folder import RunFolder
from withstand.types import ProcessError

_Value = TypeVar("_Value")

_ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LONGEST = timedelta(hours=6)  # for which a process that hangs, and has not ended, is waited for
_START = timedelta(minutes=10)  # within which all must have started
_GRACE = 3.0  # seconds
_CAN_BE_SEVERAL = dist.is_available()  # asked once, since each step asks for the processes


def is_in_group() -> bool:
    """Whether torchrun, or what sets the same variables, started this process as one of several."""
    return all(name in os.environ for name in _ENVIRONMENT) and os.environ["WORLD_SIZE"] not in ("", "0", "1")


@contextmanager
def joined() -> Iterator[None]:
    """Joins the group of processes that torchrun's environment describes, and leaves it in the end.

    Nothing is joined where there is none, or where the process is in one already.

    Raises:
        ProcessError: the group does not come together.
    """
    if not is_in_group() or not dist.is_available() or dist.is_initialized():
        yield
        return
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    with exchanging():
        store, number, count = next(rendezvous("env://", timeout=_START))
        store.set(f"here/{number}", "yes")  # whoever ended before this is not waited for as long as a result
        store.wait([f"here/{other}" for other in range(count)], _START)
        backend = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=_LONGEST)
    try:
        yield
    except Exception:
        # The group is not left: who still waits for this process sees that it ends. What started it ends all
        # when one ends, and the first has yet to say what is wrong.
        if not is_first():
            time.sleep(_GRACE)
        raise
    dist.destroy_process_group()


def num_processes() -> int:
    """How many there are; 1 where no group of processes was started."""
    return dist.get_world_size() if _CAN_BE_SEVERAL and dist.is_initialized() else 1


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

    Raises:
        ProcessError: a process has ended.
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

    Raises:
        ProcessError: a process has ended.
    """
    if num_processes() == 1:
        return [value]
    values: list[_Value | None] = [None] * num_processes()
    with exchanging():
        dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


@contextmanager
def agreeing() -> Iterator[None]:
    """An error that one process raises within is raised by all at the end, where each waits for all.

    What is within waits for no other process.

    Raises:
        Exception: whatever the process raised itself; else what the first of the others did.
    """
    mine: Exception | None = None
    try:
        yield
    except Exception as error:
        mine = error
    every: list[tuple[int, Failure | None]] = []
    if num_processes() > 1:
        every = from_all((rank(), None if mine is None else Failure.of(mine)))
    if mine is not None:
        raise mine
    for number, failure in every:
        if failure is not None:
            failure.again(f"process {number}")


def done_by_first(do: Callable[[], _Value]) -> _Value:
    """What the first process computes, in all of them; an error of it is raised by all.

    Args:
        do: Computes it; called by the first alone.

    Raises:
        Exception: what it raised.
        ProcessError: a process has ended.
    """
    if num_processes() == 1:
        return do()
    if not is_first():
        answer: _Value | Failure | None = from_first(None)
        if isinstance(answer, Failure):
            answer.again("process 0")
        return answer  # type: ignore[return-value]
    try:
        value = do()
    except ProcessError:  # of which the others hear themselves
        raise
    except Exception as error:
        from_first(Failure.of(error))
        raise
    from_first(value)
    return value


def by_type(tensors: Sequence[Tensor]) -> list[list[int]]:
    """The numbers of the tensors of each type."""
    numbers: dict[torch.dtype, list[int]] = defaultdict(list)
    for number, tensor in enumerate(tensors):
        numbers[tensor.dtype].append(number)
    return list(numbers.values())


def add_up_(tensors: Sequence[Tensor]) -> None:
    """Replaces each tensor by its sum over all processes, in one exchange for each type."""
    for numbers in by_type(tensors):
        alike = [tensors[number] for number in numbers]
        flat = torch.cat([tensor.reshape(-1) for tensor in alike])
        with exchanging():
            dist.all_reduce(flat)
        for tensor, total in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
            tensor.copy_(total.view(tensor.shape))


class Mail:
    """Sends values from one process to another, on the CPU; a context that all processes enter and leave.

    The first may receive from each other process in a thread of its own.
    """

    def __enter__(self) -> Mail:
        with exchanging():
            self._group: Any = dist.new_group(backend="gloo", timeout=_LONGEST)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            dist.destroy_process_group(self._group)

    def send(self, value: object, to: int) -> None:
        """Sends a value that pickle takes, and waits until it is received.

        Raises:
            ProcessError: the other process has ended.
        """
        with exchanging():
            dist.send_object_list([value], dst=to, group=self._group, device=torch.device("cpu"))

    def receive(self, source: int) -> Any:
        """Waits for a value.

        Raises:
            ProcessError: the other process has ended.
        """
        box: list[Any] = [None]
        with exchanging():
            dist.recv_object_list(box, src=source, group=self._group, device=torch.device("cpu"))
        return box[0]


@contextmanager
def exchanging() -> Iterator[None]:
    """Says of what goes wrong between processes what that means.

    Raises:
        ProcessError: another process has ended, or cannot be reached.
    """
    try:
        yield
    except RuntimeError as error:  # of gloo; those of NCCL are a kind of it
        reason = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0][:200]
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
