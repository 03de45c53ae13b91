"""The batches of an evaluation: which there are, what is stored of each, and how far they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import islice

import torch

from withstand.core.identity import identity
from withstand.data import batches
from withstand.evaluation.meter import PartResult, Subject
from withstand.evaluation.one_batch import BatchPlan, BatchScores, Job, score_batch
from withstand.evaluation.store import BatchStore, Store

Progress = Callable[[int, int], None]
"""Called with how many examples are done, of how many."""


class Work:
    """All batches of a test split, each to be scored once, in any order and by any process.

    Args:
        subject: What is measured.
        batch_plan: What to measure of each batch.
        store: What is known already; takes up the results.
        on_batch: Called as batches and their parts are done.
    """

    def __init__(
        self, subject: Subject, batch_plan: BatchPlan, store: Store, on_batch: Progress | None
    ) -> None:
        self.subject, self.batch_plan = subject, batch_plan
        self._store, self._on_batch = store, on_batch
        self._places = torch.split(subject.places, subject.batch_size)
        self._done = [0] * len(self._places)  # examples of each batch, a part of it counted as so many

    @property
    def num_batches(self) -> int:
        """How many there are."""
        return len(self._places)

    def jobs(self, first: int = 0, step: int = 1) -> Iterator[Job]:
        """The batches in order, read as they are asked for.

        Args:
            first: The number of the first.
            step: Of so many batches one is taken.
        """
        test, size = self.subject.test, self.subject.batch_size
        every = zip(range(self.num_batches), batches(test, size), self._places, strict=True)
        for number, batch, index in islice(every, first, None, step):
            yield Job(number, number * size, batch, index)

    def opened(self, number: int) -> AbstractContextManager[BatchStore]:
        """What is stored of a batch; written when the context is left."""
        start, index = number * self.subject.batch_size, self._places[number]
        return self._store.batch(start, start + len(index), identity(index))

    def score(self, job: Job, store: BatchStore, on_part: Callable[[], None] = lambda: None) -> BatchScores:
        """Measures a batch here.

        Args:
            job: The batch.
            store: What is known of it; takes up the results.
            on_part: Is called after each part.
        """
        parts, count = iter(range(1, self.batch_plan.num_parts + 1)), len(job.index)

        def one_more() -> None:
            self._tell(
                job.number, count * next(parts, self.batch_plan.num_parts) // self.batch_plan.num_parts
            )
            on_part()

        return score_batch(self.batch_plan, self.subject.seed, job, store, one_more)

    def take(self, number: int, results: Mapping[str, PartResult]) -> None:
        """Stores what another process knows of a batch by now."""
        with self.opened(number) as store:
            store.replace(results)

    def finish(self, number: int) -> None:
        """Tells that a batch is done."""
        self._tell(number, len(self._places[number]))

    def _tell(self, number: int, count: int) -> None:
        self._done[number] = count
        if self._on_batch is not None:
            self._on_batch(sum(self._done), len(self.subject.test))
