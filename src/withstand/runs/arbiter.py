"""Who says which trials of a sweep go on: a process of its own, so nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias, cast

Score: TypeAlias = tuple[int, float]
"""An epoch, from 1, and its validation accuracy."""


@dataclass(frozen=True)
class _Name:
    """All that Ray Tune's scheduler wants to know of a trial."""

    trial_id: str


class Arbiter:
    """Hears the scores of all trials of a sweep, and says which go on, by Ray Tune's ASHA.

    Args:
        grace_epochs: Epochs that every trial has.
        reduction_factor: Of so many that have come as far, one goes on.
        most_epochs: Of any trial.
    """

    def __init__(self, grace_epochs: int, reduction_factor: int, most_epochs: int) -> None:
        from ray.tune.schedulers import ASHAScheduler

        self._scheduler = ASHAScheduler(
            time_attr="epoch",
            metric="score",
            mode="max",
            max_t=most_epochs,
            grace_period=grace_epochs,
            reduction_factor=reduction_factor,
            stop_last_trials=False,
        )
        self._known: set[str] = set()

    def goes_on(self, name: str, scores: Sequence[Score]) -> bool:
        """Whether a trial is to go on after the last of the epochs that it reports.

        Those before it were done by a process that ended since: it is known that the trial went on.
        """
        trial: Any = _Name(name)
        action, controller = "CONTINUE", cast(Any, None)  # which its rule does not ask
        if name not in self._known:
            self._known.add(name)
            self._scheduler.on_trial_add(controller, trial)
        for epoch, score in scores:
            action = self._scheduler.on_trial_result(controller, trial, {"epoch": epoch, "score": score})
        return action == "CONTINUE"


def begun(ray: ModuleType, *settings: int) -> Any:
    """An arbiter in a process of its own; where that is lost another begins, which knows less and is kinder.

    Args:
        ray: Whose cluster was joined.
        settings: Of the arbiter, in order.
    """
    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Arbiter).remote(*settings)
