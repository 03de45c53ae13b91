"""Batches shared by a group of processes, each of which runs the same evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import NamedTuple, TypeVar

from typing_extensions import override

from withstand.core import processes
from withstand.core.failures import Failure
from withstand.core.identity import identity
from withstand.evaluation.meter import PartResult
from withstand.evaluation.one_batch import BatchScores, Job
from withstand.evaluation.store import BatchStore
from withstand.evaluation.work import Work
from withstand.evaluation.workers import Alone, Workers
from withstand.types import ProcessError

_Value = TypeVar("_Value")


class _Scored(NamedTuple):
    """What another process sends of a batch: its number, its scores, and what is to be stored of it."""

    number: int
    scores: BatchScores
    results: Mapping[str, PartResult]


class Processes(Workers):
    """The processes of the group that ``torch.distributed`` has joined, of whatever backend.

    All of them call ``evaluate`` with the same model, data and meters, and all get its results. Of n
    processes each scores every n-th batch; the first alone reads and writes the run folder, where it stores
    each batch as it comes.
    """

    @property
    @override
    def is_first(self) -> bool:
        return processes.is_first()

    @override
    def agreeing(self) -> AbstractContextManager[None]:
        return processes.agreeing()

    @override
    def require_alike(self, *prepared: object) -> None:
        every = processes.from_all(identity(*prepared))
        other = next((number for number, one in enumerate(every) if one != every[0]), None)
        if other is not None:
            raise ProcessError(
                f"Process {other} would measure another model, other data or other settings than process 0. "
                "Give all processes the same run folder, weights, data and package versions."
            )

    @override
    def done_by_first(self, do: Callable[[], _Value]) -> _Value:
        return processes.done_by_first(do)

    # -- in the first process -----------------------------------------------------------------------------

    @override
    @contextmanager
    def scoring(self, work: Work) -> Iterator[Iterator[BatchScores]]:
        if processes.num_processes() == 1:
            with Alone().scoring(work) as scores:
                yield scores
            return
        processes.from_first([_known(work, number) for number in range(work.num_batches)])
        with processes.Mail() as mail, _listeners(mail, work.num_batches) as messages:
            yield self._scores(work, messages)

    def _scores(self, work: Work, messages: SimpleQueue[_Scored | Failure]) -> Iterator[BatchScores]:
        done: dict[int, BatchScores] = {}

        def take(message: _Scored | Failure) -> None:
            if isinstance(message, Failure):
                message.again("another process")
            work.take(message.number, message.results)
            work.finish(message.number)
            done[message.number] = message.scores

        def take_what_is_there() -> None:
            while True:
                try:
                    take(messages.get_nowait())
                except Empty:
                    return

        following = 0
        for job in work.jobs(step=processes.num_processes()):
            with work.opened(job.number) as store:
                done[job.number] = work.score(job, store, take_what_is_there)
            work.finish(job.number)
            while following in done:
                yield done.pop(following)
                following += 1
        while following < work.num_batches:
            if following in done:
                yield done.pop(following)
                following += 1
            else:
                take(messages.get())

    # -- in any other -------------------------------------------------------------------------------------

    @override
    def help_with(self, work: Work) -> None:
        known: list[Mapping[str, PartResult]] = processes.from_first([])
        with processes.Mail() as mail:
            for job in work.jobs(processes.rank(), processes.num_processes()):
                mail.send(_scored(work, job, known[job.number]), to=0)
                if mail.receive(0):
                    return


def _known(work: Work, number: int) -> Mapping[str, PartResult]:
    with work.opened(number) as store:
        return store.results


def _scored(work: Work, job: Job, known: Mapping[str, PartResult]) -> _Scored | Failure:
    store = BatchStore(None, known)
    try:
        return _Scored(job.number, work.score(job, store), store.results)
    except Exception as error:  # which the first process raises
        return Failure.of(error)


@contextmanager
def _listeners(mail: processes.Mail, num_batches: int) -> Iterator[SimpleQueue[_Scored | Failure]]:
    """Receives from each other process in a thread of its own; tells them to stop where the context fails."""
    messages: SimpleQueue[_Scored | Failure] = SimpleQueue()
    is_over = Event()

    def listen(rank: int) -> None:
        try:
            for _ in range(rank, num_batches, processes.num_processes()):
                message = mail.receive(rank)
                messages.put(message)
                is_last = is_over.is_set() or isinstance(message, Failure)
                mail.send(is_last, to=rank)
                if is_last:
                    return
        except ProcessError as error:
            messages.put(Failure.of(error))

    threads = [
        Thread(target=listen, args=(rank,), daemon=True) for rank in range(1, processes.num_processes())
    ]
    for thread in threads:
        thread.start()
    try:
        yield messages
    except Exception:
        is_over.set()  # whoever is at a batch finishes it
        _wait_for(threads)
        raise
    _wait_for(threads)


def _wait_for(threads: Sequence[Thread]) -> None:
    for thread in threads:
        thread.join()
