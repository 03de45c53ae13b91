"""The command ``withstand reproduce``."""

from __future__ import annotations

import runpy
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from withstand.cli.arguments import parse, plain_parser
from withstand.cli.commands import COMMANDS
from withstand.cli.evaluate import evaluate_into
from withstand.cli.terminal import ERRORS, OUTPUT
from withstand.cli.train import train_into
from withstand.core.run_folder import RunFolder
from withstand.core.writing import percent
from withstand.reporting.differences import Difference, differences
from withstand.reporting.find import find_runs
from withstand.reporting.formatting import as_published, budget, duration, interval
from withstand.reporting.read import read_run
from withstand.results.measurements import Measurement
from withstand.runs.reproducing import Plan, keep, made_in_python, names_of, plan
from withstand.types import RunFolderError, WithstandError

_CHECKOUT = Path(__file__).parents[3]  # of this package, where it was not installed as a wheel
_PAGES = _CHECKOUT / "tools" / "results_page.py"


def reproduce(arguments: Sequence[str]) -> None:
    """Runs kept results anew where anything has changed, says which figures moved, and keeps the new ones.

    Raises:
        RunFolderError: there are no such results, or some of them could not be run, which stops no others.
    """
    values = parse(_parser(), arguments)
    results = Path(values.results)
    names = names_of(results, values.names)
    if not values.names:
        _say_others(results)
    plans: list[Plan] = []
    failed: list[str] = []
    has_changed = False
    for name in names:
        with _failing_alone(name, failed):
            if why := made_in_python(results, name):
                OUTPUT.print(f"{name}: {why}; not by this command", soft_wrap=True)
            else:
                plans.append(plan(results, name, data_root=values.data.root))
    if len(plans) > 1:
        due = [what for what in plans if what.reasons or values.again]
        took = duration(sum(what.former_seconds for what in due))
        OUTPUT.print(
            f"{len(due)} of {len(plans)} have to be run anew; when they were kept, they took {took}",
            soft_wrap=True,
        )
    for what in plans:
        with _failing_alone(what.name, failed):
            has_changed |= _one(what, values)
    if has_changed and results.resolve() == _CHECKOUT / "results" and _PAGES.is_file():
        runpy.run_path(str(_PAGES), run_name="__main__")
        OUTPUT.print("docs: written anew from results/")
    if failed:
        raise RunFolderError(
            f"{len(failed)} of {len(names)} could not be reproduced: {', '.join(failed)}. The same command "
            "tries them again."
        )


@contextmanager
def _failing_alone(name: str, failed: list[str]) -> Iterator[None]:
    """Prints an error of a run and notes its name, so that the others go on."""
    try:
        yield
    except WithstandError as error:
        failed.append(name)
        ERRORS.print(f"{name}: {error}", style="bold red", soft_wrap=True)


def _parser() -> ArgumentParser:
    parser = plain_parser("withstand reproduce", COMMANDS["reproduce"].about)
    parser.add_argument("names", nargs="*", type=str, help="Folders of the results; all where none is named.")
    parser.add_argument("--results", type=str, default="results", help="The folder of all results.")
    parser.add_argument("--runs", type=str, default="runs/reproduce", help="Where to train and measure.")
    parser.add_argument("--check", action="store_true", help="Only say what would be run, and why.")
    parser.add_argument("--again", action="store_true", help="Run what has not changed, too, from its start.")
    parser.add_argument("--data.root", type=str | None, default=None, help="Where the data are.")
    return parser


def _say_others(results: Path) -> None:
    """Says which folders hold no runs."""
    for folder in sorted(folder for folder in results.iterdir() if folder.is_dir()):
        try:
            find_runs([folder])
        except RunFolderError:
            how = ", but by python benchmarks/NAME.py" if folder.name == "benchmarks" else ""
            OUTPUT.print(f"{folder.name}: holds no run; not by this command{how}", soft_wrap=True)


def _one(what: Plan, values: Namespace) -> bool:
    """Runs one anew, where it has to be; whether anything was written."""
    reasons = what.reasons or (["asked for again"] if values.again else [])
    if not reasons:
        OUTPUT.print(f"{what.name}: nothing has changed", soft_wrap=True)
        return False
    run = what.run_in(Path(values.runs))
    if values.check:
        OUTPUT.print(f"{what.name}: would be run in {run.path} ({', '.join(reasons)})", soft_wrap=True)
        return False
    OUTPUT.print(f"{what.name}: run in {run.path} ({', '.join(reasons)})", soft_wrap=True)
    if values.again and not what.reasons and run.path.exists():
        with run.held("starting anew"):
            shutil.rmtree(run.path)
    train_into(what.parsed, run, what.command)
    evaluate_into(run, what.parsed, f"withstand reproduce {what.name}")
    _print_differences(what, run)
    keep(what, run)
    return True


def _print_differences(what: Plan, run: RunFolder) -> None:
    """Prints the figures that moved, those beside which others published one, and how many are equal."""
    before, after = read_run(what.kept.path), read_run(run.path)
    every = differences(before.table, after.table)
    published = after.results.published if after.results else []
    for difference in every:
        figure = difference.published(published)
        if difference.verdict != "equal" or figure is not None:
            beside = (
                "" if figure is None else f"; published {as_published(figure.accuracy)} ({figure.source})"
            )
            OUTPUT.print(f"  {_words(difference)}{beside}", soft_wrap=True)
    counts = Counter(difference.verdict for difference in every)
    summary = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    OUTPUT.print(f"{what.name}: {len(every)} figures: {summary}", soft_wrap=True)
    OUTPUT.print("; ".join(_surroundings(what, run)), soft_wrap=True)


def _surroundings(what: Plan, run: RunFolder) -> Iterator[str]:
    """Data, device and cost of what was run."""
    made = read_run(run.path).environment
    yield f"data {what.parsed.recipe.data.name}"
    if made is not None:
        yield f"seed {made.seed}"
        yield f"{made.device}"
        for word, seconds in (("trained", made.cost.train_seconds), ("measured", made.cost.evaluate_seconds)):
            if seconds is not None:
                yield f"{word} in {duration(seconds)}"


def _words(difference: Difference) -> str:
    """A figure, how it moved, and its interval: ``clean accuracy: 93.1 % then, 91.9 % now, …``."""
    row, kept, now = difference.row, difference.kept, difference.now
    at = budget(row.norm, row.level) if row.norm and row.level else f"{row.level:g}" * (row.level > 0)
    name = " ".join(filter(None, (row.measure, row.by, at)))
    if kept is None or now is None:
        return f"{name}: {_value(row)}, {difference.verdict}"
    within = "" if now.lower is None else f", interval now {interval(now)}"
    return f"{name}: {_value(kept)} then, {_value(now)} now, {difference.verdict}{within}"


def _value(row: Measurement) -> str:
    return percent(row.value) if row.total is not None else f"{row.value:.4g}"
