"""The command line; the only file that knows everything."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from withstand import data, models
from withstand._version import __version__
from withstand.cli.arguments import parse, plain_parser, target
from withstand.cli.attack import attack
from withstand.cli.certify import certify
from withstand.cli.check import check
from withstand.cli.compare import add_exports, compare, export
from withstand.cli.console import ERRORS, OUTPUT, print_results, progress_of
from withstand.cli.moments import moments
from withstand.cli.sweep import sweep
from withstand.core.dataset_info import KNOWN_DATASETS
from withstand.core.run_folder import RunFolder
from withstand.core.suggest import nearest
from withstand.data.load import is_present
from withstand.data.locations import data_root
from withstand.recipes.parsing import (
    ParsedRecipe,
    find_recipe,
    load_yaml,
    packaged_recipes,
    parse_recipe,
    recipe_parser,
)
from withstand.recipes.sweep import find_sweep, packaged_sweeps, read_sweep
from withstand.reporting import report
from withstand.runs.run_parts import open_run
from withstand.runs.stages import evaluate_run, require_other_data, train_recipe
from withstand.training import ProgressBar
from withstand.types import RecipeError, WithstandError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``withstand``.

    Args:
        arguments: What stands after the program's name; the process's own where None.

    Returns:
        The exit status: 0 when done, 2 for an error of input or surroundings, 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    if not arguments or arguments[0] in ("-h", "--help"):
        _print_overview()
        return 0
    if arguments[0] == "--version":
        OUTPUT.print(__version__)
        return 0
    try:
        _command(arguments[0]).run(arguments[1:])
    except WithstandError as error:
        ERRORS.print(f"error: {error}", style="bold red", soft_wrap=True)  # paths stay whole
        return 2
    except KeyboardInterrupt:
        ERRORS.print(
            "Interrupted. Results so far stay. The same command goes on: with a training from its last "
            "checkpoint, with a measurement after the last attack or certificate on the last batch that was "
            "finished."
        )
        return 130
    return 0


# -- commands ---------------------------------------------------------------------------------------


def _run(arguments: Sequence[str]) -> None:
    parsed, out, command = _recipe_and_folder(
        "run", arguments, "Train a recipe, evaluate it, and write its report."
    )
    require_other_data(parsed.recipe)
    _train_into(parsed, out, command)
    _evaluate_into(out, parsed, command)
    OUTPUT.print(f"report: {report([out.path])}", soft_wrap=True)


def _train(arguments: Sequence[str]) -> None:
    parsed, out, command = _recipe_and_folder(
        "train", arguments, "Train a recipe, or go on where it was stopped."
    )
    _train_into(parsed, out, command)
    OUTPUT.print(f"next: withstand evaluate {out.path}", soft_wrap=True)


def _evaluate(arguments: Sequence[str]) -> None:
    parser = recipe_parser(
        "withstand evaluate RUN",
        "Measure a trained run: clean accuracy, accuracy under each attack at each epsilon, and what of it "
        "is certified. "
        "RUN is a run folder; --evaluation.… changes what its recipe measures.",
    )
    folder, overrides = target("evaluate", "RUN, a run folder", arguments, parser)
    run, _ = open_run(Path(folder))
    command = shlex.join(["withstand", "evaluate", folder, *overrides])
    _evaluate_into(run, parse_recipe(run.recipe, overrides, parser=parser), command)
    OUTPUT.print(f"next: withstand report {run.path}", soft_wrap=True)


def _report(arguments: Sequence[str]) -> None:
    parser = plain_parser(
        "withstand report",
        "Write one self-contained page from one or several run folders.",
    )
    parser.add_argument(
        "runs", nargs="+", type=str, help="Run folders; several make one page to compare them."
    )
    parser.add_argument("--out", type=str | None, default=None, help="The page; RUN/report.html for one run.")
    parser.add_argument("--title", type=str | None, default=None, help="Its title.")
    add_exports(parser)
    values = parse(parser, arguments)
    runs = [Path(run) for run in values.runs]
    page = report(runs, values.out, title=values.title)
    OUTPUT.print(f"report: {page}", soft_wrap=True)
    export(runs, page, values)


def _recipes(arguments: Sequence[str]) -> None:
    parser = plain_parser(
        "withstand recipes",
        "List the recipes and sweeps that come with the package, or print one of them.",
    )
    parser.add_argument("name", nargs="?", type=str | None, default=None, help="Print this recipe or sweep.")
    parser.add_argument(
        "--models", action="store_true", help="List the models that recipes can name instead."
    )
    values = parse(parser, arguments)
    if values.models:
        OUTPUT.print("\n".join(models.MODEL_NAMES))
        return
    if values.name is not None:
        OUTPUT.print(find_sweep(values.name).read_text(encoding="utf-8"), soft_wrap=True)
        return
    table = Table("recipe", "what it is")
    for name, path in packaged_recipes().items():
        table.add_row(name, load_yaml(path.read_text(encoding="utf-8")).get("title", ""))
    OUTPUT.print(table)
    sweeps = Table("sweep", "what it is")
    for name, path in packaged_sweeps().items():
        sweeps.add_row(name, read_sweep(path).title)
    OUTPUT.print(sweeps)


def _data(arguments: Sequence[str]) -> None:
    parser = plain_parser(
        "withstand data",
        "List the data sets and whether their files are here, or fetch one.",
    )
    parser.add_argument("action", nargs="?", type=str, default="list", help="list, or fetch.")
    parser.add_argument("name", nargs="?", type=str | None, default=None, help="The data set to fetch.")
    parser.add_argument(
        "--root", type=str | None, default=None, help="The data root; else WITHSTAND_DATA, else ./data."
    )
    values = parse(parser, arguments)
    root = data_root(values.root)
    if values.action == "fetch" and values.name is not None:
        for path in data.fetch(values.name, root):
            OUTPUT.print(str(path), soft_wrap=True)
    elif values.action == "list" and values.name is None:
        table = Table("data set", "shape", "classes", f"in {root}")
        for name, about in KNOWN_DATASETS.items():
            table.add_row(
                name,
                " x ".join(str(side) for side in about.shape),
                str(about.num_classes),
                "yes" if is_present(name, root) else "no",
            )
        OUTPUT.print(table)
        OUTPUT.print("Your own pictures: data.name=folder:PATH, with PATH/train/CLASS/ and PATH/test/CLASS/.")
    else:
        raise RecipeError("Expected `withstand data`, or `withstand data fetch NAME`.")


# -- shared steps -----------------------------------------------------------------------------------


def _recipe_and_folder(
    command: str, arguments: Sequence[str], description: str
) -> tuple[ParsedRecipe, RunFolder, str]:
    parser = recipe_parser(
        f"withstand {command} RECIPE",
        f"{description} RECIPE is a name that `withstand recipes` lists, or a YAML file.",
    )
    parser.add_argument("--out", type=str | None, default=None, help="The run folder; runs/NAME where null.")
    name, overrides = target(command, "RECIPE, a name or a YAML file", arguments, parser)
    chosen = [argument for argument in overrides if argument.startswith("--out=")]
    parsed = parse_recipe(
        find_recipe(name), [argument for argument in overrides if argument not in chosen], parser=parser
    )
    out = Path(chosen[-1].partition("=")[2]) if chosen else Path("runs") / parsed.recipe.name
    return parsed, RunFolder(out), shlex.join(["withstand", command, name, *overrides])


def _train_into(parsed: ParsedRecipe, out: RunFolder, command: str) -> None:
    with_bar = [ProgressBar(OUTPUT)]
    result = train_recipe(parsed, out, command=command, observers=with_bar)
    if result.has_collapsed:
        ERRORS.print(
            "warning: training collapsed and could not be mended; see the notes in the training log. "
            "The last good weights are in place.",
            style="yellow",
        )
    elif any(row.get("collapsed") for row in result.rows):
        ERRORS.print(
            "warning: training collapsed at times; see the notes in the training log.", style="yellow"
        )
    OUTPUT.print(f"trained: {out.path} ({result.steps} steps, {result.seconds:.1f} s)", soft_wrap=True)


def _evaluate_into(out: RunFolder, parsed: ParsedRecipe, command: str) -> None:
    with progress_of("evaluating") as on_batch:
        result = evaluate_run(out, parsed, command=command, on_batch=on_batch)
    print_results(result.results, result.table)


# -- the overview -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Command:
    run: Callable[[Sequence[str]], None]
    usage: str
    summary: str


_COMMANDS = {
    "run": _Command(_run, "run RECIPE [--key=value …] [--out=DIR]", "train, evaluate and report"),
    "train": _Command(
        _train, "train RECIPE [--key=value …] [--out=DIR]", "train, or go on where it was stopped"
    ),
    "evaluate": _Command(_evaluate, "evaluate RUN [--evaluation.key=value …]", "measure a trained run"),
    "certify": _Command(
        certify, "certify RUN|MODEL [--norm=2 --epsilons=[0.5] …]", "prove what no attack can change"
    ),
    "check": _Command(
        check, "check MODEL|RECIPE|RUN [--data.name=NAME]", "say whether anything can be proven of a model"
    ),
    "moments": _Command(
        moments, "moments RUN [--noise_std=[0.1,0.2] …]", "compare analytic moments under noise with samples"
    ),
    "attack": _Command(
        attack, "attack RUN [--epsilon=8/255 …]", "try an attack of your own on a trained run"
    ),
    "sweep": _Command(
        sweep, "sweep SWEEP|RECIPE [--over key=v1,v2 …]", "run a recipe at every combination of values"
    ),
    "compare": _Command(
        compare,
        "compare DIR [DIR …] [--out=PAGE] [--tables=DIR] [--figures=svg]",
        "compare runs with each other",
    ),
    "report": _Command(_report, "report RUN [RUN …] [--out=PAGE]", "write the page of one or several runs"),
    "recipes": _Command(_recipes, "recipes [NAME]", "list the recipes and sweeps, or print one"),
    "data": _Command(_data, "data [fetch NAME]", "list the data sets, or fetch one"),
}


def _command(name: str) -> _Command:
    if name not in _COMMANDS:
        raise RecipeError(f"There is no command {name!r}; {nearest(name, _COMMANDS)}")
    return _COMMANDS[name]


def _print_overview() -> None:
    OUTPUT.print(
        "withstand trains classifiers to withstand noise and attack, and measures how much.\n\n"
        "Each command explains itself with --help. A first run, on data that comes with the package:\n"
        "  withstand run digits-adversarial\n",
    )
    table = Table(box=None, show_header=False, padding=(0, 2))
    for command in _COMMANDS.values():
        table.add_row(f"withstand {command.usage}", command.summary)
    OUTPUT.print(table)
