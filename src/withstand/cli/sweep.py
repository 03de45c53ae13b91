"""The command ``withstand sweep``."""

from __future__ import annotations

import gc
import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Column, Table

from withstand.cli.arguments import target
from withstand.cli.commands import COMMANDS
from withstand.cli.terminal import ERRORS, OUTPUT, progress_of
from withstand.core.flat import flat
from withstand.core.run_folder import RunFolder
from withstand.core.writing import percent
from withstand.recipes.parsing import ParsedRecipe, find_recipe, parse_recipe, recipe_parser
from withstand.recipes.sweep import Point, Sweep, find_sweep, is_sweep, keys_of, points, read_over, read_sweep
from withstand.recipes.words import is_unspoken
from withstand.reporting import report, summarize_seeds
from withstand.reporting.formatting import budget
from withstand.reporting.table import select
from withstand.results.measurements import ATTACKED, CERTIFIED, CLEAN
from withstand.results.results import Results, covers
from withstand.results.results_file import read_results
from withstand.runs.asked import require_other_data
from withstand.runs.run_parts import require_unchanged
from withstand.runs.stages import evaluate_run, train_recipe
from withstand.training import ProgressBar
from withstand.types import RecipeError, RunFolderError, WithstandError

_OVER, _OUT = "--over=", "--out="
# A folder whose recipe differs in no more than these holds the same run; its results hold what was measured.
_NOT_TRAINED = ("title", "description", "published", "changed", "evaluation")
_logger = logging.getLogger(__name__)


def sweep(arguments: Sequence[str]) -> None:
    """Runs every point of a sweep that has not been run, and writes one page of all.

    Raises:
        WithstandError: the sweep does not fit, which is checked before anything is run; or some of its
            points failed, which is raised when all others are done.
    """
    name, options = target("sweep", "SWEEP or RECIPE, a name or a YAML file", arguments, _help())
    overs = [option.removeprefix(_OVER) for option in options if option.startswith(_OVER)]
    outs = [option.removeprefix(_OUT) for option in options if option.startswith(_OUT)]
    overrides = [option for option in options if not option.startswith((_OVER, _OUT))]
    chosen = _sweep(name, overs, overrides)
    if overs or not all(is_unspoken(override.removeprefix("--").partition("=")[0]) for override in overrides):
        chosen = replace(chosen, title="", description="")  # which are of the sweep as it was
    folder = RunFolder.at(outs[-1]).path if outs else Path("runs") / chosen.name
    every = points(chosen, overrides)
    failed = _run_all(chosen, every, folder)
    _finish(chosen, folder, [folder / point.name for point in every if point.name not in failed])
    if failed:
        lines = "".join(f"\n  {point}: {error}" for point, error in failed.items())
        raise RunFolderError(
            f"{len(failed)} of {len(every)} points failed. The same command runs them again and passes "
            f"over those that are done.{lines}"
        )


def _help() -> Any:
    parser = recipe_parser(
        "withstand sweep SWEEP|RECIPE",
        COMMANDS["sweep"].about,
    )
    parser.add_argument("--over", type=str, help="key=v1,v2: what to vary; may be repeated.")
    parser.add_argument("--out", type=str | None, default=None, help="The folder; runs/NAME where null.")
    return parser


def _sweep(name: str, overs: Sequence[str], overrides: Sequence[str]) -> Sweep:
    """The sweep that a command names, with what it varies itself."""
    over = dict(read_over(argument) for argument in overs)
    keys = {argument.removeprefix("--").partition("=")[0] for argument in overrides}
    file = find_sweep(name)
    if is_sweep(file):
        chosen = read_sweep(file)
        chosen = replace(chosen, over=_narrowed(chosen.over, over))
    else:
        chosen = Sweep(name=f"{file.stem}-sweep", recipe=name, over=over)
    if both := keys & {part for key in chosen.over for part in keys_of(key)}:
        key = min(both)
        raise RecipeError(f"The sweep varies {key}, so --{key} cannot fix it. Narrow it by --over {key}=….")
    return chosen


def _narrowed(over: Mapping[str, Sequence[Any]], narrower: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The values varied, with those of the command in the place of the sweep's own."""
    varied = dict(over)
    for key, values in narrower.items():
        varied[next((known for known in over if {*keys_of(key)} <= {*keys_of(known)}), key)] = values
    return varied


def _parsed(chosen: Sweep, point: Point) -> ParsedRecipe:
    try:
        return parse_recipe(find_recipe(chosen.recipe), point.overrides, sources=chosen.files)
    except RecipeError as error:
        raise RecipeError(f"At the point {point.name}: {error}") from error


def _run_all(chosen: Sweep, every: Sequence[Point], folder: Path) -> dict[str, str]:
    """Runs what is not done; names and errors of the points that failed."""
    # Whatever does not fit is an error before hours are spent.
    recipes = {point: _parsed(chosen, point) for point in every}
    failed: dict[str, str] = {}
    for number, point in enumerate(every, start=1):
        started = time.monotonic()
        try:
            outcome = _run(chosen, point, recipes.pop(point), folder / point.name)
        except WithstandError as error:
            failed[point.name], outcome = str(error), f"failed: {error}"
        except Exception as error:
            # The other points can still be of use, and hours may have gone into them.
            _logger.exception("The point %s failed.", point.name)
            failed[point.name] = outcome = f"{type(error).__name__}: {error}"
        seconds = time.monotonic() - started
        console = ERRORS if point.name in failed else OUTPUT
        console.print(f"[{number}/{len(every)}] {point.name}: {outcome} ({seconds:.1f} s)", soft_wrap=True)
    return failed


def _run(chosen: Sweep, point: Point, parsed: ParsedRecipe, path: Path) -> str:
    """Trains and evaluates a point where that has not been done; what came of it in words."""
    out = RunFolder(path)
    former = read_results(out) if out.recipe.exists() else None
    if former and _is_of(former[0], out, parsed):
        require_unchanged(out, parsed.recipe)
        return f"{_in_words(former[1])}, done before"
    command = shlex.join(["withstand", "run", chosen.recipe, *point.overrides, f"{_OUT}{path}"])
    observers = [ProgressBar(OUTPUT)] if OUTPUT.is_terminal else []
    require_other_data(parsed.recipe)
    try:
        train_recipe(parsed, out, command=command, observers=observers)
        with progress_of("evaluating") as on_batch:
            return _in_words(evaluate_run(out, parsed, command=command, on_batch=on_batch).table)
    finally:
        gc.collect()  # models and optimisers hold each other


def _is_of(results: Results, out: RunFolder, parsed: ParsedRecipe) -> bool:
    """Whether a folder with results holds the run of this very recipe, and all that it asks for."""
    is_measured = covers(results.settings, parsed.values["evaluation"])
    return is_measured and _trained_values(parse_recipe(out.recipe).values) == _trained_values(parsed.values)


def _trained_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return flat({key: value for key, value in values.items() if key not in _NOT_TRAINED})


def _in_words(table: pd.DataFrame) -> str:
    """Clean accuracy, and at the middle epsilon of each norm the lowest attacked and most certified."""
    parts = [f"clean {percent(select(table, CLEAN).value.iloc[0])}"]
    for word, measure, is_lowest in (("attacked", ATTACKED, True), ("certified", CERTIFIED, False)):
        curves = [curve for _, curve in select(table, measure).groupby(["norm", "by"], sort=False)]
        middle = pd.DataFrame([curve.iloc[(len(curve) - 1) // 2] for curve in curves], columns=table.columns)
        for norm, of_norm in middle.groupby("norm", sort=False):
            headline = of_norm.sort_values(["value", "level"], ascending=is_lowest).iloc[0]
            parts.append(f"{word} {percent(headline.value)} ({budget(str(norm), headline.level)})")
    return ", ".join(parts)


def _finish(chosen: Sweep, folder: Path, done: Sequence[Path]) -> None:
    """Prints means over seeds, and writes the page."""
    if not done:
        return
    header, rows = summarize_seeds(done)
    first, *others = header
    table = Table(Column(first, overflow="fold"), *others, title=chosen.title or chosen.name)
    for row in rows:
        table.add_row(*row)
    OUTPUT.print(table)
    page = report(done, folder / "report.html", title=chosen.title or chosen.name)
    OUTPUT.print(f"report: {page}", soft_wrap=True)
