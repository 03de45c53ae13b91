"""Batches scored by workers of a Ray cluster, to which model and images are sent."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import nn
from typing_extensions import override

from withstand import bayes
from withstand._version import __version__
from withstand.core.checks import memory_checked
from withstand.core.failures import Failure
from withstand.core.modes import eval_mode
from withstand.core.numerics import numerics, without_autocast
from withstand.core.setting_rules import COUNT, instance_of, optional
from withstand.evaluation.meter import PartResult
from withstand.evaluation.one_batch import BatchPlan, BatchScores, Job, score_batch
from withstand.evaluation.shipping import packed, unpacked
from withstand.evaluation.store import BatchStore
from withstand.evaluation.work import Work
from withstand.evaluation.workers import Workers
from withstand.integrations.ray_cluster import Cluster, require_ray, use_assigned_threads
from withstand.types import Batch, ClusterError

_logger = logging.getLogger(__name__)

_MOST_TRIES = 3  # of a batch whose worker ends, and of starting a worker
_PATIENCE = 60.0  # seconds after which it is said that there are no workers yet


class _Shipment(NamedTuple):
    """What a worker needs beside batches."""

    version: str
    model: nn.Module
    batch_plan: BatchPlan
    seed: int
    batch_size: int


class _Scored(NamedTuple):
    """What a worker gives back of a batch."""

    scores: BatchScores
    results: Mapping[str, PartResult]


class RayWorkers(Workers):
    """Actors of a Ray cluster, each with one CPU, and one GPU where the model is on one.

    This process prepares the evaluation, reads and writes the run folder, and stores each batch as it comes;
    workers see no files of it. The batch of a worker that ends is scored by another.

    Args:
        cluster: From ``integrations.ray_cluster.connected``.
        num_workers: How many; one a CPU of the cluster, or one a GPU, where None. Never more than batches.

    Raises:
        TypeError: it is no cluster.
        ValueError: the number is below 1.
    """

    def __init__(self, cluster: Cluster, num_workers: int | None = None) -> None:
        self._cluster = instance_of(Cluster, "what ray_cluster.connected() gives")("cluster", cluster)
        self._num_workers = optional(COUNT)("num_workers", num_workers)

    @override
    @contextmanager
    def scoring(self, work: Work) -> Iterator[Iterator[BatchScores]]:
        subject = work.subject
        is_on_gpu = subject.test.labels.device.type == "cuda"
        there = self._cluster.num_gpus if is_on_gpu else self._cluster.num_cpus
        shipment = _Shipment(__version__, subject.model, work.batch_plan, subject.seed, subject.batch_size)
        pool = _Pool(packed(shipment), num_gpus=int(is_on_gpu))
        try:
            pool.start(min(self._num_workers or max(1, there), work.num_batches))
            yield self._scores(work, pool)
        finally:
            pool.end()

    def _scores(self, work: Work, pool: _Pool) -> Iterator[BatchScores]:
        done: dict[int, BatchScores] = {}
        following = 0
        for number, scored in pool.scored(work):
            work.take(number, scored.results)
            work.finish(number)
            done[number] = scored.scores
            while following in done:
                yield done.pop(following)
                following += 1


@dataclass(frozen=True)
class _Running:
    """What an actor does: a batch, or its start where there is none."""

    actor: Any
    job: Job | None


class _Pool:
    """The actors, and what each of them does.

    Args:
        shipment: What each needs, packed.
        num_gpus: That each needs.
    """

    def __init__(self, shipment: bytes, *, num_gpus: int) -> None:
        self._ray = require_ray()
        self._class = self._ray.remote(num_cpus=1, num_gpus=num_gpus, max_restarts=0)(_Scorer)
        self._shipment = self._ray.put(shipment)
        self._running: dict[Any, _Running] = {}
        self._waiting: list[Job] = []  # whose workers ended
        self._ends: Counter[int | None] = Counter()

    def start(self, count: int) -> None:
        """Starts so many actors; each gets its first batch when it is there."""
        for _ in range(count):
            actor = self._class.remote(self._shipment)
            self._running[actor.begun.remote()] = _Running(actor, None)

    def end(self) -> None:
        """Ends all actors, whatever they do."""
        for running in self._running.values():
            self._ray.kill(running.actor)
        self._running.clear()

    def scored(self, work: Work) -> Iterator[tuple[int, _Scored]]:
        """Numbers of batches and what was sent back, as they come.

        Raises:
            Exception: of the model or a meter, as it was raised in a worker.
            ClusterError: workers end again and again.
        """
        jobs = work.jobs()
        while self._running:
            ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=_PATIENCE)
            if not ready:
                self._say_if_none_has_begun()
                continue
            running = self._running.pop(ready[0])
            answer = self._answer(ready[0], running)
            if answer is None:
                continue
            job = self._waiting.pop() if self._waiting else next(jobs, None)
            if job is not None:
                self._send(running.actor, job, work)
            else:
                self._ray.kill(running.actor)
            if running.job is not None:
                yield running.job.number, answer

    def _send(self, actor: Any, job: Job, work: Work) -> None:
        with work.opened(job.number) as store:
            known = store.results
        on_cpu = replace(job, batch=Batch(*(part.cpu() for part in job.batch)))
        self._running[actor.score.remote(on_cpu, known)] = _Running(actor, job)

    def _answer(self, reference: Any, running: _Running) -> Any:
        """What an actor sent; None where it ended, and another was started in its place."""
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            number = None if running.job is None else running.job.number
            self._ends[number] += 1
            if self._ends[number] >= _MOST_TRIES:
                raise ClusterError(_ended_again(running.job, error)) from error
            if running.job is not None:
                self._waiting.append(running.job)
                _logger.warning("A worker of Ray ended; another scores its batch.")
            self.start(1)
            return None
        if isinstance(answer, Failure):
            answer.again("a worker of Ray")
        return answer

    def _say_if_none_has_begun(self) -> None:
        if all(running.job is None for running in self._running.values()):
            _logger.warning("Ray has had no CPU or GPU free for %.0f s; it is waited for.", _PATIENCE)


def _ended_again(job: Job | None, error: Exception) -> str:
    first_line = next((line for line in str(error).splitlines() if line.strip()), "")[:300]
    if job is None:
        return f"Ray's workers do not start: they need this package, too. ({first_line})"
    return (
        f"Ray's workers ended {_MOST_TRIES} times at the test examples {job.start} to {job.stop - 1}. If "
        "memory runs out, take smaller batches or fewer workers. Results that were stored stay. "
        f"({first_line})"
    )


class _Scorer:
    """In a worker: scores batches, as this package does in one process.

    Args:
        shipment: What it needs, packed.
    """

    def __init__(self, shipment: bytes) -> None:
        self._packed = shipment
        self._shipment: _Shipment | None = None
        self._held = ExitStack()

    def begun(self) -> bool:
        """Tells that the worker is there."""
        use_assigned_threads()
        return True

    def score(self, job: Job, known: Mapping[str, PartResult]) -> _Scored | Failure:
        """What a batch gives, or what was raised.

        Args:
            job: The batch, on the CPU.
            known: What is stored of it.
        """
        try:
            shipment = self._ready()
            device = next((tensor.device for tensor in shipment.model.parameters()), torch.device("cpu"))
            job = replace(job, batch=Batch(*(part.to(device) for part in job.batch)))
            store = BatchStore(None, known)
            with memory_checked(f"take batches smaller than {shipment.batch_size} examples."):
                scores = score_batch(shipment.batch_plan, shipment.seed, job, store, lambda: None)
            return _Scored(scores, store.results)
        except Exception as error:  # raised again where it is awaited
            return Failure.of(error)

    def _ready(self) -> _Shipment:
        """Unpacks what was sent, and makes the model ready, once."""
        if self._shipment is None:
            shipment: _Shipment = unpacked(self._packed)
            if shipment.version != __version__:
                raise ClusterError(
                    f"Ray's worker has withstand {__version__}, but this process {shipment.version}: install "
                    "the same on all machines."
                )
            for context in (
                without_autocast(),
                eval_mode(shipment.model),
                numerics("fp32"),
                bayes.sharing_deviations(shipment.model, bayes.Deviations()),
            ):
                self._held.enter_context(context)
            self._shipment = shipment
        return self._shipment
