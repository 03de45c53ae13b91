"""The command ``withstand train``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from withstand.cli.arguments import target
from withstand.cli.console import ERRORS, OUTPUT
from withstand.core.run_folder import RunFolder
from withstand.recipes.parsing import ParsedRecipe, find_recipe, parse_recipe, recipe_parser
from withstand.runs.stages import train_recipe
from withstand.training import ProgressBar


def train(arguments: Sequence[str]) -> None:
    """The command, with what stands after its name."""
    parsed, out, command = recipe_and_folder(
        "train", arguments, "Train a recipe, or go on where it was stopped."
    )
    train_into(parsed, out, command)
    OUTPUT.print(f"next: withstand evaluate {out.path}", soft_wrap=True)


def recipe_and_folder(
    command: str, arguments: Sequence[str], description: str
) -> tuple[ParsedRecipe, RunFolder, str]:
    """The recipe of a command that takes one, where its run goes, and the command as it was given.

    Args:
        command: Its name.
        arguments: What stands after it.
        description: What it does, for its help.
    """
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
    out = chosen[-1].partition("=")[2] if chosen else Path("runs") / parsed.recipe.name
    return parsed, RunFolder.at(out), shlex.join(["withstand", command, name, *overrides])


def train_into(parsed: ParsedRecipe, out: RunFolder, command: str) -> None:
    """Trains a recipe in a run folder, and says how that went."""
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
