"""The command ``withstand sweep``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jsonargparse import ArgumentParser
from rich.table import Column, Table

from withstand.cli.arguments import parse, plain_parser, target
from withstand.cli.commands import COMMANDS
from withstand.cli.terminal import ERRORS, OUTPUT, progress_of
from withstand.core.folder_path import is_url
from withstand.core.run_folder import RunFolder
from withstand.integrations.ray_cluster import connected
from withstand.recipes.parsing import ParsedRecipe, find_recipe, parse_recipe, recipe_parser
from withstand.recipes.sweep import Point, Sweep, find_sweep, is_sweep, keys_of, points, read_over, read_sweep
from withstand.recipes.words import is_unspoken
from withstand.reporting import report, summarize_seeds
from withstand.runs.early_stopping import Asha
from withstand.runs.mirror import Mirror, file_system, write_to_store
from withstand.runs.ray_sweep import Needs, attempts_on_ray
from withstand.runs.sweeping import Result, Trial, attempts
from withstand.training import ProgressBar
from withstand.types import RecipeError, RunFolderError

_OVER, _OUT = "--over=", "--out="
_OF_CLUSTER = ("on", "cpus", "gpus", "scheduler", "grace_epochs", "reduction_factor")
_ASHA = "asha"


@dataclass(frozen=True)
class _Way:
    """How trials are run.

    Attributes:
        on: The cluster; this process where None.
        needs: What each trial takes of it.
        asha: By which rule trainings are stopped early; none is where None.
    """

    on: str | None = None
    needs: Needs = field(default_factory=Needs)
    asha: Asha | None = None


def sweep(arguments: Sequence[str]) -> None:
    """Runs every point of a sweep that has not been run, and writes one page of all.

    Raises:
        WithstandError: the sweep does not fit, which is checked before anything is run; or some of its
            points failed, which is raised when all others are done.
    """
    name, options = target("sweep", "SWEEP or RECIPE, a name or a YAML file", arguments, _help())
    overs = [option.removeprefix(_OVER) for option in options if option.startswith(_OVER)]
    outs = [option.removeprefix(_OUT) for option in options if option.startswith(_OUT)]
    of_cluster = [option for option in options if option[2:].partition("=")[0] in _OF_CLUSTER]
    overrides = [
        option for option in options if not option.startswith((_OVER, _OUT)) and option not in of_cluster
    ]
    way = _way(of_cluster)
    chosen = _sweep(name, overs, overrides)
    if overs or not all(is_unspoken(override.removeprefix("--").partition("=")[0]) for override in overrides):
        chosen = replace(chosen, title="", description="")  # which are of the sweep as it was
    place = _place(outs[-1]) if outs else str(Path("runs") / chosen.name)
    every = points(chosen, overrides)
    results = _run_all(chosen, every, place, way)
    _finish(chosen, place, [result.trial for result in results if result.ended == "done"])
    if stopped := [result.trial.name for result in results if result.ended == "stopped"]:
        OUTPUT.print(
            f"{len(stopped)} of {len(every)} points were stopped early, and are neither evaluated nor on the "
            f"page; without --scheduler the same command trains them to the end: {', '.join(stopped)}",
            soft_wrap=True,
        )
    if failed := [result for result in results if result.ended == "failed"]:
        lines = "".join(f"\n  {result.trial.name}: {result.words}" for result in failed)
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
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="The folder, or its URL in a store; runs/NAME where null.",
    )
    return _with_cluster(parser)


def _with_cluster(parser: ArgumentParser) -> ArgumentParser:
    needs, asha = Needs(), Asha()
    for name, kind, default, about in (
        ("on", str | None, None, "ray, ray:HOST:PORT or ray://HOST:PORT; this process where null."),
        ("cpus", int | None, None, f"Of each trial on Ray, and its threads; {needs.cpus} where null."),
        ("gpus", float | None, None, f"Of each trial on Ray, such as 0.5; {needs.gpus:g} where null."),
        ("scheduler", str | None, None, f"{_ASHA}: stops trials on Ray early that others overtake."),
        ("grace_epochs", int | None, None, f"Of {_ASHA}: of every trial; {asha.grace_epochs} where null."),
        ("reduction_factor", int | None, None, f"Of {_ASHA}; {asha.reduction_factor} where null."),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default, help=about)
    return parser


def _way(options: Sequence[str]) -> _Way:
    """How the options say that trials are run.

    Raises:
        RecipeError: one does not fit, or needs another.
    """
    parsed = parse(_with_cluster(plain_parser("withstand sweep", COMMANDS["sweep"].about)), options)
    values = {name: parsed[name] for name in _OF_CLUSTER if parsed[name] is not None}
    on, scheduler = values.pop("on", None), values.pop("scheduler", None)
    if on is None and (values or scheduler):
        raise RecipeError(f"--{next(iter(values), 'scheduler')} is of sweeps on Ray. Add --on=ray.")
    if scheduler not in (None, _ASHA):
        raise RecipeError(f"There is no scheduler {scheduler!r}; take --scheduler={_ASHA}, or none.")
    of_asha = {name: values.pop(name) for name in ("grace_epochs", "reduction_factor") if name in values}
    if of_asha and scheduler is None:
        raise RecipeError(f"--{next(iter(of_asha))} is of --scheduler={_ASHA}. Add that.")
    try:
        return _Way(on, Needs(**values), Asha(**of_asha) if scheduler else None)
    except (TypeError, ValueError) as error:
        raise RecipeError(str(error)) from error


def _place(out: str) -> str:
    """Where the sweep goes: a path or a URL."""
    if not is_url(out):
        return str(RunFolder.at(out).path)
    file_system(out)  # which says what is missing
    return out.rstrip("/")


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


def _run_all(chosen: Sweep, every: Sequence[Point], place: str, way: _Way) -> list[Result]:
    """Runs what is not done, and prints what comes of each."""
    # Whatever does not fit is an error before hours are spent.
    recipes = [_parsed(chosen, point) for point in every]
    most_epochs = 1 if way.asha is None else way.asha.require_comparable(recipes)
    _require_alone(recipes, place, way)
    trials = [
        Trial(point.name, recipe.text, _command(chosen, point, place), f"{place}/{point.name}")
        for point, recipe in zip(every, recipes, strict=True)
    ]
    del recipes  # which may hold what is large
    results: list[Result] = []
    with _attempts(trials, way, most_epochs) as ended:
        for result in ended:
            results.append(result)
            console = ERRORS if result.ended == "failed" else OUTPUT
            words = f"failed: {result.words}" if result.ended == "failed" else result.words
            line = f"[{len(results)}/{len(every)}] {result.trial.name}: {words} ({result.seconds:.1f} s)"
            console.print(line, soft_wrap=True)
    order = {trial.name: number for number, trial in enumerate(trials)}
    return sorted(results, key=lambda result: order[result.trial.name])


def _require_alone(recipes: Sequence[ParsedRecipe], place: str, way: _Way) -> None:
    """Accepts trials that are one process each, where the processes of a trial could not be started."""
    where = "on Ray" if way.on is not None else f"into {place}" if is_url(place) else None
    for settings in (parsed.recipe.training for parsed in recipes):
        if where is not None and settings.devices * settings.num_nodes > 1:
            raise RecipeError(
                f"A trial {where} is one process, so training.devices and num_nodes must be 1. Run sweeps of "
                "trainings on several processes into a folder, without --on."
            )


def _command(chosen: Sweep, point: Point, place: str) -> str:
    """The command that repeats a point alone, which writes no URL."""
    out = Path("runs") / chosen.name if is_url(place) else place
    return shlex.join(["withstand", "run", chosen.recipe, *point.overrides, f"{_OUT}{out}/{point.name}"])


@contextmanager
def _attempts(trials: Sequence[Trial], way: _Way, most_epochs: int) -> Iterator[Iterator[Result]]:
    """The results of trials as they come; those that are not done when the block is left are given up."""
    if way.on is None:
        yield attempts(trials, observers=_bars, progress=partial(progress_of, "evaluating"))
        return
    with ExitStack() as stack:
        try:
            cluster = stack.enter_context(connected(way.on))
        except ValueError as error:  # of an address
            raise RecipeError(str(error)) from error
        way.needs.require_in(cluster)
        OUTPUT.print(str(cluster))
        running = attempts_on_ray(trials, way.needs, asha=way.asha, most_epochs=most_epochs)
        yield stack.enter_context(closing(running))


def _bars() -> list[ProgressBar]:
    return [ProgressBar(OUTPUT)] if OUTPUT.is_terminal else []


def _finish(chosen: Sweep, place: str, done: Sequence[Trial]) -> None:
    """Prints means over seeds, and writes the page."""
    if not done:
        return
    with _figures(place, done) as (folder, runs):
        header, rows = summarize_seeds(runs)
        first, *others = header
        table = Table(Column(first, overflow="fold"), *others, title=chosen.title or chosen.name)
        for row in rows:
            table.add_row(*row)
        OUTPUT.print(table)
        page = report(runs, folder / "report.html", title=chosen.title or chosen.name)
        if is_url(place):
            page.write_text(page.read_text(encoding="utf-8").replace(str(folder), place), encoding="utf-8")
            write_to_store(f"{place}/{page.name}", page)
        OUTPUT.print(f"report: {place}/{page.name}", soft_wrap=True)


@contextmanager
def _figures(place: str, done: Sequence[Trial]) -> Iterator[tuple[Path, list[Path]]]:
    """A folder, and run folders in it with what a page is made of; of a store those are copies."""
    if not is_url(place):
        yield Path(place), [Path(trial.place) for trial in done]
        return
    with TemporaryDirectory(prefix="withstand-") as scratch:
        copies = [Mirror(RunFolder(Path(scratch) / trial.name), trial.place) for trial in done]
        yield Path(scratch), [copy.run.path for copy in copies]
