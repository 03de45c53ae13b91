"""Who scores the batches of an evaluation: this process alone, or others with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

from typing_extensions import override

from withstand.evaluation.one_batch import BatchScores
from withstand.evaluation.work import Work

_Value = TypeVar("_Value")


class Workers(ABC):
    """Scores batches, each once, and alike whoever does it, since each is seeded by itself.

    One process holds the run folder, reads and writes it, and gathers the results: the first. Here it is the
    only one that runs ``evaluate``; where others run it too (``Processes``), they wait for one another.
    """

    @property
    def is_first(self) -> bool:
        """Whether this process reads and writes."""
        return True

    def agreeing(self) -> AbstractContextManager[None]:
        """Within, each process prepares by itself; an error of one is raised by all at the end."""
        return nullcontext()

    def require_alike(self, *prepared: object) -> None:  # noqa: B027 - one process is like itself
        """Accepts processes that have prepared the same.

        Args:
            *prepared: All that results depend on.

        Raises:
            ProcessError: one has prepared something else.
        """

    def done_by_first(self, do: Callable[[], _Value]) -> _Value:
        """What the first process computes, in all of them; an error of it is raised by all."""
        return do()

    @abstractmethod
    def scoring(self, work: Work) -> AbstractContextManager[Iterator[BatchScores]]:
        """In the first process: the scores of all batches, in order, each stored when it is there.

        Args:
            work: The batches.
        """

    def help_with(self, work: Work) -> None:  # noqa: B027 - there is no other process
        """In any other process: scores its batches, and sends them to the first.

        Args:
            work: The batches.
        """


class Alone(Workers):
    """This process does all."""

    @override
    @contextmanager
    def scoring(self, work: Work) -> Iterator[Iterator[BatchScores]]:
        yield self._scores(work)

    def _scores(self, work: Work) -> Iterator[BatchScores]:
        for job in work.jobs():
            with work.opened(job.number) as store:
                scores = work.score(job, store)
            yield scores
            work.finish(job.number)
