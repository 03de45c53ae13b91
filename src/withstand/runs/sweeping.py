"""A sweep's trials: what each is to do, whether it is done, and doing it, in whichever process."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pandas as pd

from withstand.core.flat import flat
from withstand.core.run_folder import RunFolder
from withstand.core.trust import trusting
from withstand.core.writing import percent
from withstand.recipes.parsing import ParsedRecipe, parse_recipe
from withstand.reporting.formatting import budget
from withstand.reporting.table import select
from withstand.results.measurements import ATTACKED, CERTIFIED, CLEAN
from withstand.results.results import Results, covers
from withstand.results.results_file import read_results
from withstand.runs.asked import require_other_data
from withstand.runs.early_stopping import StoppedEarly, Watch, note_stop, rows_of, stop_of
from withstand.runs.mirror import WorkFolder, working_on
from withstand.runs.run_parts import require_unchanged
from withstand.runs.stages import evaluate_run, train_recipe
from withstand.training import Observer
from withstand.types import WithstandError

# A folder whose recipe differs in no more than these holds the same run; its results hold what was measured.
_NOT_TRAINED = ("title", "description", "published", "changed", "evaluation")
_logger = logging.getLogger(__name__)

Progress = Callable[[], AbstractContextManager[Callable[[int, int], None] | None]]
"""Shows how far an evaluation has come, while it lasts."""


@dataclass(frozen=True)
class Trial:
    """A point of a sweep, ready to run in any process.

    Attributes:
        name: Of the point.
        recipe: All values of its recipe, resolved, as YAML.
        command: The command that repeats it alone, for ``environment.json``.
        place: Its run folder, a path or a URL.
    """

    name: str
    recipe: str
    command: str
    place: str


@dataclass(frozen=True)
class Result:
    """What came of a trial.

    Attributes:
        trial: It.
        ended: ``done``, ``stopped`` early, or ``failed``.
        words: Figures, or the error, in one line.
        seconds: Time that it took.
        warnings: What was logged in another process.
    """

    trial: Trial
    ended: Literal["done", "stopped", "failed"]
    words: str
    seconds: float
    warnings: tuple[str, ...] = ()


Attempt = Callable[..., Result]
"""Runs a trial, with a ``watch`` or None; whatever fails is in the result."""


def attempts(
    trials: Sequence[Trial], *, observers: Callable[[], Sequence[Observer]], progress: Progress
) -> Iterator[Result]:
    """Runs trials in this process, one after another.

    Args:
        trials: What is to be done.
        observers: Makes those who follow a training.
        progress: Of each evaluation.
    """
    for trial in trials:
        yield attempt(trial, observers=observers(), progress=progress)


def attempt(
    trial: Trial,
    *,
    watch: Watch | None = None,
    observers: Sequence[Observer] = (),
    progress: Progress = nullcontext,
) -> Result:
    """Trains and evaluates a trial where that has not been done; the others can still be of use if it fails.

    Args:
        trial: It.
        watch: Stops a training early that falls behind; none is where None.
        observers: Called as training goes on.
        progress: Of the evaluation.
    """
    started = time.monotonic()
    ended: Literal["done", "stopped", "failed"] = "done"
    try:
        with working_on(trial.place) as work:
            try:
                words = _run(trial, work, watch, observers, progress)
            except StoppedEarly as stop:
                words, ended = f"{stop}, not evaluated", "stopped"
            except WithstandError as error:  # which names the copy where there is one
                words, ended = str(error).replace(str(work.run.path), trial.place), "failed"
    except WithstandError as error:
        words, ended = str(error), "failed"
    except Exception as error:
        # Hours may have gone into the others.
        _logger.exception("The point %s failed.", trial.name)
        words, ended = f"{type(error).__name__}: {error}", "failed"
    finally:
        gc.collect()  # models and optimisers hold each other
    return Result(trial, ended, words, time.monotonic() - started)


def _run(
    trial: Trial, work: WorkFolder, watch: Watch | None, observers: Sequence[Observer], progress: Progress
) -> str:
    """What came of a trial in words; ``StoppedEarly`` is raised where it was."""
    out, parsed = work.run, _parsed(trial)
    former = read_results(out) if out.recipe.exists() else None
    if former and _is_of(former[0], out, parsed):
        require_unchanged(out, parsed.recipe)
        if watch is not None:
            watch.tell(rows_of(out))
        return f"{in_words(former[1])}, done before"
    if watch is not None and (stop := stop_of(out)) and _is_same_training(out, parsed):
        watch.tell(rows_of(out))
        raise StoppedEarly(stop)
    work.fetch_rest()
    require_other_data(parsed.recipe)
    watching = [*observers, work] if watch is None else [*observers, work, watch]
    try:
        train_recipe(parsed, out, command=trial.command, observers=watching)
    except StoppedEarly as stopped:
        note_stop(out, stopped)
        work.store()
        raise
    work.store()
    with progress() as on_batch:
        table = evaluate_run(out, parsed, command=trial.command, on_batch=on_batch).table
    work.store()
    return in_words(table)


def _parsed(trial: Trial) -> ParsedRecipe:
    """The recipe, which the process that gave out the trial has parsed, and found that it may run."""
    with TemporaryDirectory(prefix="withstand-") as folder, trusting():
        file = Path(folder) / "recipe.yaml"
        file.write_text(trial.recipe, encoding="utf-8")
        return parse_recipe(file)


def _is_of(results: Results, out: RunFolder, parsed: ParsedRecipe) -> bool:
    """Whether a folder with results holds the run of this very recipe, and all that it asks for."""
    return covers(results.settings, parsed.values["evaluation"]) and _is_same_training(out, parsed)


def _is_same_training(out: RunFolder, parsed: ParsedRecipe) -> bool:
    return _trained_values(parse_recipe(out.recipe).values) == _trained_values(parsed.values)


def _trained_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return flat({key: value for key, value in values.items() if key not in _NOT_TRAINED})


def in_words(table: pd.DataFrame) -> str:
    """Clean accuracy, and at the middle epsilon of each norm the lowest attacked and most certified."""
    parts = [f"clean {percent(select(table, CLEAN).value.iloc[0])}"]
    for word, measure, is_lowest in (("attacked", ATTACKED, True), ("certified", CERTIFIED, False)):
        curves = [curve for _, curve in select(table, measure).groupby(["norm", "by"], sort=False)]
        middle = pd.DataFrame([curve.iloc[(len(curve) - 1) // 2] for curve in curves], columns=table.columns)
        for norm, of_norm in middle.groupby("norm", sort=False):
            headline = of_norm.sort_values(["value", "level"], ascending=is_lowest).iloc[0]
            parts.append(f"{word} {percent(headline.value)} ({budget(str(norm), headline.level)})")
    return ", ".join(parts)
