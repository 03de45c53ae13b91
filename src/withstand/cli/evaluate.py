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
from withstand.runs.run_parts import open_run
from withstand.runs.stages import evaluate_run


def evaluate(arguments: Sequence[str]) -> None:
    """The command, with what stands after its name."""
    parser = recipe_parser(
        "withstand evaluate RUN",
        COMMANDS["evaluate"].about,
    )
    folder, overrides = target("evaluate", "RUN, a run folder", arguments, parser)
    run, _ = open_run(Path(folder))
    command = shlex.join(["withstand", "evaluate", folder, *overrides])
    evaluate_into(run, parse_recipe(run.recipe, overrides, parser=parser), command)
    OUTPUT.print(f"next: withstand report {run.path}", soft_wrap=True)


def evaluate_into(out: RunFolder, parsed: ParsedRecipe, command: str) -> None:
    """Measures what a recipe names of a trained run, and prints it."""
    with progress_of("evaluating") as on_batch:
        result = evaluate_run(out, parsed, command=command, on_batch=on_batch)
    print_results(result.results, result.table)
