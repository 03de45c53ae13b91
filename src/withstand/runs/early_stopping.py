"""Trainings that are stopped early because others do better, and what their run folders say of it."""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from withstand.core.run_folder import RunFolder
from withstand.core.setting_rules import COUNT, Whole, settle
from withstand.core.writing import percent
from withstand.recipes.parsing import ParsedRecipe
from withstand.runs.arbiter import Score
from withstand.training import CsvLog, Observer
from withstand.training.checkpoint import ACCURACY, ROBUST_ACCURACY, Row
from withstand.training.validation import is_validated
from withstand.types import RecipeError

_KEY = "stopped_early"  # in environment.json, which training writes anew where it is gone on with
_ROLLED_BACK = "back to the end of epoch"  # a note of the training log
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asha:
    """Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934), as Ray Tune has it.

    At 1, r, r², … times ``grace_epochs`` a trial goes on only if it is among the best 1/r of those that have
    come as far, r being ``reduction_factor``.

    Args:
        grace_epochs: Epochs that every trial has, at least 1.
        reduction_factor: At least 2.

    Raises:
        TypeError: a setting is no whole number.
        ValueError: one is out of its range.
    """

    grace_epochs: int = 1
    reduction_factor: int = 3

    def __post_init__(self) -> None:
        settle(self, grace_epochs=COUNT, reduction_factor=Whole(least=2))

    def require_comparable(self, recipes: Sequence[ParsedRecipe]) -> int:
        """Accepts a sweep whose validation scores say which trial does better.

        Args:
            recipes: Of all trials.

        Returns:
            The most epochs that any trial has.

        Raises:
            RecipeError: some are scored under an attack and others are not; or all end before any is stopped.
        """
        selections = [recipe.values["training"]["selection"] for recipe in recipes]
        if any(selection != selections[0] for selection in selections):
            if None in selections:
                raise RecipeError(
                    "Some points are scored on clean validation images and others under attack, so asha "
                    "cannot tell which does better. Give all the same training.selection."
                )
            _logger.warning("The points differ in training.selection: asha takes their scores as they are.")
        most = max(recipe.recipe.training.epochs for recipe in recipes)
        if self.grace_epochs >= most:
            raise RecipeError(
                f"asha could stop no trial, since none has more than {most} epochs: take fewer "
                "--grace_epochs, or leave --scheduler out."
            )
        return most


@dataclass(frozen=True)
class Stop:
    """When a training was stopped early.

    Attributes:
        epoch: The last that it did, from 1.
        measure: By what: ``validation_accuracy`` or ``validation_robust_accuracy``.
        score: That of the epoch, in [0, 1].
    """

    epoch: int
    measure: str
    score: float

    def __str__(self) -> str:
        """For people: ``stopped early by asha after epoch 2 (validation accuracy 31.0 %)``."""
        measure = self.measure.replace("_", " ")
        return f"stopped early by asha after epoch {self.epoch} ({measure} {percent(self.score)})"


class StoppedEarly(Exception):  # noqa: N818  # no error: what ends a training that others have overtaken
    """Ends a training.

    Args:
        stop: When.
        rows: The training log so far.
    """

    def __init__(self, stop: Stop, rows: Sequence[Row] = ()) -> None:
        super().__init__(str(stop))
        self.stop, self.rows = stop, rows


class Watch(Observer):
    """Reports each epoch's score, and ends the training where it is not to go on.

    Args:
        goes_on: Is told the scores of epochs not told before, the last one new; whether to go on.
    """

    def __init__(self, goes_on: Callable[[Sequence[Score]], bool]) -> None:
        self._goes_on = goes_on
        self._num_told = 0
        self._is_last = False

    @override
    def on_step(self, done: int, total: int) -> None:
        self._is_last = done >= total

    @override
    def on_epoch(self, rows: Sequence[Row]) -> None:
        if not _counts(rows[-1]):
            return
        if not self.tell(rows) and not self._is_last:
            epoch, score = _score(rows[-1])
            raise StoppedEarly(Stop(epoch, _measure(rows[-1]), score), rows)

    def tell(self, rows: Sequence[Row]) -> bool:
        """Reports the epochs of a training log that were not reported; whether to go on.

        Raises:
            RecipeError: the log has no validation accuracy.
        """
        new = [row for row in rows[self._num_told :] if _counts(row)]
        self._num_told = len(rows)
        return self._goes_on([_score(row) for row in new])


def _counts(row: Row) -> bool:
    """Whether an epoch has a score, and is not done again with smaller steps."""
    return is_validated(row) and _ROLLED_BACK not in str(row["note"])


def _score(row: Row) -> Score:
    if ACCURACY not in row:
        raise RecipeError("asha goes by validation accuracy, and there are no validation data.")
    score = float(row[_measure(row)])
    is_usable = math.isfinite(score) and not int(row["collapsed"])
    return int(row["epoch"]), score if is_usable else 0.0


def _measure(row: Row) -> str:
    return ROBUST_ACCURACY if row.get(ROBUST_ACCURACY, "") != "" else ACCURACY


def note_stop(out: RunFolder, stopped: StoppedEarly) -> None:
    """Says in a run folder that its training was stopped early: in its log, which pages show, and beside it.

    Raises:
        RunFolderError: the folder cannot be written.
    """
    *rows, last = stopped.rows
    note = "; ".join(text for text in (str(last["note"]), str(stopped)) if text)
    with out.held("training"):
        CsvLog(out.train_log).on_epoch([*rows, {**last, "note": note}])
        out.write_json(out.environment, {**out.read_json(out.environment), _KEY: vars(stopped.stop)})


def stop_of(out: RunFolder) -> Stop | None:
    """When the training of a run folder was stopped early; None where it was not, or went on since."""
    noted: dict[str, Any] | None = out.read_json(out.environment).get(_KEY)
    return None if noted is None else Stop(**noted)


def rows_of(out: RunFolder) -> list[Row]:
    """The training log of a run folder, all of it as texts.

    Raises:
        RunFolderError: it cannot be read.
    """
    return [dict(row) for row in csv.DictReader(io.StringIO(out.text_of(out.train_log), newline=""))]
