"""The command ``withstand evaluate``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from withstand.cli.arguments import target
from withstand.cli.commands import COMMANDS
from withstand.cli.console import print_results
from withstand.cli.terminal import OUTPUT, progress_of
from withstand.core.run_folder import RunFolder
from withstand.recipes.parsing import ParsedRecipe, parse_recipe, recipe_parser
from withstand.reporting import report
from withstand.results import read_results
from withstand.runs.forgetting import figures_of, forget
from withstand.runs.run_parts import open_run
from withstand.runs.stages import evaluate_run
from withstand.types import RecipeError

_FORGET = "--forget="


def evaluate(arguments: Sequence[str]) -> None:
    """The command, with what stands after its name."""
    parser = recipe_parser(
        "withstand evaluate RUN",
        COMMANDS["evaluate"].about,
    )
    parser.add_argument(
        "--forget",
        type=str,
        help="Take something out of the results instead, such as pgd-20-linf, pgd-20-linf@0.3, NoiseCurve or "
        "'accuracy under noise', and write the report anew; may be repeated.",
    )
    folder, overrides = target("evaluate", "RUN, a run folder", arguments, parser)
    run, _ = open_run(Path(folder))
    command = shlex.join(["withstand", "evaluate", folder, *overrides])
    if any(option.startswith(_FORGET) for option in overrides):
        _forget(run, overrides, command)
        return
    evaluate_into(run, parse_recipe(run.recipe, overrides, parser=parser), command)
    OUTPUT.print(f"next: withstand report {run.path}", soft_wrap=True)


def _forget(run: RunFolder, options: Sequence[str], command: str) -> None:
    names = [option.removeprefix(_FORGET) for option in options if option.startswith(_FORGET)]
    others = [option for option in options if not option.startswith(_FORGET)]
    if strange := [option for option in others if not option.startswith("--data.")]:
        raise RecipeError(
            f"--forget measures nothing: leave {strange[0].partition('=')[0]} out, or evaluate after."
        )
    before = read_results(run)
    with progress_of("evaluating") as on_batch:
        result = forget(run.path, names, others, command=command, on_batch=on_batch)
    print_results(result.results, result.table)
    kept = figures_of(result.table)
    gone = [name for name in figures_of(before[1]) if name not in kept] if before else []
    OUTPUT.print(f"forgotten: {', '.join(gone)}", soft_wrap=True)
    OUTPUT.print(f"report: {report([run.path])}", soft_wrap=True)


def evaluate_into(out: RunFolder, parsed: ParsedRecipe, command: str) -> None:
    """Measures what a recipe names of a trained run, and prints it."""
    with progress_of("evaluating") as on_batch:
        result = evaluate_run(out, parsed, command=command, on_batch=on_batch)
    print_results(result.results, result.table)
