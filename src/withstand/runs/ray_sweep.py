"""Trials of a sweep on a cluster of Ray: each one task, tried again where its worker or machine is lost."""

from __future__ import annotations

import logging
import os
import platform
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from typing_extensions import override

from withstand._version import __version__
from withstand.core.folder_lock import wait_until_free
from withstand.core.folder_path import is_url
from withstand.core.setting_rules import COUNT, Number, settle
from withstand.core.trust import Allowed, allowing, now_allowed
from withstand.integrations.ray_cluster import Cluster, require_ray, use_assigned_threads
from withstand.runs.arbiter import Score, begun
from withstand.runs.early_stopping import Asha, Watch
from withstand.runs.sweeping import Attempt, Result, Trial, attempt
from withstand.types import ClusterError, RunFolderError

_MOST_TRIES = 4  # of a trial whose workers end
_WAIT = 60.0  # seconds that a worker of a sweep that was killed may take to end
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Needs:
    """What each trial takes of a cluster.

    Args:
        cpus: CPUs, at least 1, which is also its number of threads.
        gpus: GPUs; a part of one, such as 0.5, is shared.

    Raises:
        TypeError: one is no number.
        ValueError: one is out of its range.
    """

    cpus: int = 1
    gpus: float = 0.0

    def __post_init__(self) -> None:
        settle(self, cpus=COUNT, gpus=Number(least=0))

    def require_in(self, cluster: Cluster) -> None:
        """Accepts a cluster that can hold a trial.

        Raises:
            ClusterError: it is of this machine alone, and too small.
        """
        if self.cpus > cluster.num_cpus or self.gpus > cluster.num_gpus:
            text = f"a trial takes {self.cpus} CPUs and {self.gpus:g} GPUs, and there is {cluster}"
            if cluster.is_local:
                raise ClusterError(f"No trial can begin: {text}. Take less by --cpus and --gpus.")
            _logger.warning("No trial can begin before the cluster has grown: %s.", text)
        if cluster.num_gpus and not self.gpus:
            _logger.warning("Trials take no GPU, and there is %s: --gpus=1 gives each one.", cluster)


@dataclass(frozen=True)
class _Surroundings:
    """What a worker needs to know of the process that gives out the trials."""

    folder: Path
    allowed: Allowed
    version: str = __version__


def attempts_on_ray(
    trials: Sequence[Trial],
    needs: Needs,
    *,
    asha: Asha | None = None,
    most_epochs: int = 1,
    work: Attempt = attempt,
) -> Generator[Result, None, None]:
    """Runs trials on the cluster that was joined; those that are not done in the end are cancelled.

    A trial whose worker or machine is lost is tried again, which goes on from its last checkpoint.

    Args:
        trials: What is to be done.
        needs: What each takes.
        asha: By which rule trainings are stopped early; none is where None.
        most_epochs: Of any trial; of no use without ``asha``.
        work: Runs one.

    Yields:
        Each result as it comes.

    Raises:
        RunFolderError: a place is of one process alone.
    """
    _require_shared(trials)
    ray = require_ray()
    arbiter = None if asha is None else begun(ray, asha.grace_epochs, asha.reduction_factor, most_epochs)
    here = _Surroundings(Path.cwd(), now_allowed())
    task = ray.remote(num_cpus=needs.cpus, num_gpus=needs.gpus, max_retries=0)(_work)
    tries: Counter[str] = Counter()

    def begin(trial: Trial) -> Any:
        named = task.options(name=f"withstand {trial.name}")  # as lists of processes show it
        return named.remote(here, trial, work, arbiter)

    pending = {begin(trial): trial for trial in map(_absolute, trials)}
    try:
        while pending:
            (ended,), _ = ray.wait([*pending])
            trial = pending.pop(ended)
            result = _result(ray, ended, trial)
            tries[trial.name] += 1
            if isinstance(result, Result):
                yield _seen_here(result)
            elif tries[trial.name] < _MOST_TRIES:
                _logger.warning("%s: %s; it is tried again from its last checkpoint.", trial.name, result)
                pending[begin(trial)] = trial
            else:
                yield Result(trial, "failed", f"{result}, {_MOST_TRIES} times", 0.0)
    finally:
        with suppress(Exception):  # of a cluster that is gone there is nothing to cancel
            for reference in pending:
                ray.cancel(reference, force=True)


def _require_shared(trials: Sequence[Trial]) -> None:
    for trial in trials:
        if trial.place.startswith("memory:"):
            raise RunFolderError(
                f"{trial.place} is in the memory of one process, so workers cannot share it. Take a folder, "
                "or a store that all machines reach."
            )


def _absolute(trial: Trial) -> Trial:
    """The same trial in a folder that does not depend on where a worker is."""
    return trial if is_url(trial.place) else replace(trial, place=str(Path(trial.place).absolute()))


def _result(ray: ModuleType, ended: Any, trial: Trial) -> Result | str:
    """What came of a task; in words, how its worker was lost."""
    lost = (
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.LocalRayletDiedError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.ObjectLostError,
    )
    try:
        result: Result = ray.get(ended)
    except lost as error:
        kind = "its machine ran out of memory" if "Memory" in type(error).__name__ else "its worker was lost"
        return f"{kind} ({type(error).__name__})"
    except ray.exceptions.RayError as error:  # such as of a machine where withstand is not installed
        reason = " ".join(str(getattr(error, "cause", None) or error).split())
        return Result(trial, "failed", reason[-300:], 0.0)
    for text in result.warnings:
        _logger.warning("%s: %s", trial.name, text)
    return result


def _seen_here(result: Result) -> Result:
    """The same result, or a failed one where its folder is on another machine's own disk."""
    place = result.trial.place
    if result.ended == "failed" or is_url(place) or Path(place).is_dir():
        return result
    words = (
        f"a worker wrote {place}, which is not seen here. Take a folder that all machines share, or "
        "the URL of a store."
    )
    return replace(result, ended="failed", words=words)


# -- in workers -------------------------------------------------------------------------------------


def _work(here: _Surroundings, trial: Trial, work: Attempt, arbiter: Any) -> Result:
    """In a worker: runs a trial as the process would that gave it out."""
    if here.version != __version__:
        raise ClusterError(
            f"{platform.node()} has withstand {__version__}, and the sweep was begun by {here.version}: "
            "install the same version on all machines."
        )
    use_assigned_threads()
    if here.folder.is_dir():  # so that relative paths lead to where they lead there
        os.chdir(here.folder)
    if not is_url(trial.place):
        wait_until_free(Path(trial.place), _WAIT)
    log = _Collected()
    logger = logging.getLogger("withstand")
    logger.addHandler(log)
    try:
        with allowing(here.allowed):
            result = work(trial, watch=None if arbiter is None else Watch(_Asks(trial.name, arbiter)))
    finally:
        logger.removeHandler(log)
    return replace(result, warnings=tuple(log.texts))


class _Collected(logging.Handler):
    """Keeps warnings, which the process that gave out the work prints."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


class _Asks:
    """Asks the arbiter whether a trial is to go on."""

    def __init__(self, name: str, arbiter: Any) -> None:
        self._name, self._arbiter = name, arbiter

    def __call__(self, scores: Sequence[Score]) -> bool:
        return bool(require_ray().get(self._arbiter.goes_on.remote(self._name, scores)))
