"""The command ``withstand train``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from withstand.cli.arguments import target
from withstand.cli.commands import COMMANDS
from withstand.cli.terminal import OUTPUT
from withstand.core.run_folder import RunFolder
from withstand.recipes.parsing import ParsedRecipe, find_recipe, parse_recipe, recipe_parser
from withstand.runs.stages import train_recipe
from withstand.training import ProgressBar


def train(arguments: Sequence[str]) -> None:
    """The command, with what stands after its name."""
    parsed, out, command = recipe_and_folder("train", arguments)
    train_into(parsed, out, command)
    OUTPUT.print(f"next: withstand evaluate {out.path}", soft_wrap=True)


def recipe_and_folder(command: str, arguments: Sequence[str]) -> tuple[ParsedRecipe, RunFolder, str]:
    """The recipe of a command that takes one, where its run goes, and the command as it was given.

    Args:
        command: Its name.
        arguments: What stands after it.
    """
    parser = recipe_parser(f"withstand {command} RECIPE", COMMANDS[command].about)
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
    OUTPUT.print(f"trained: {out.path} ({result.steps} steps, {result.seconds:.1f} s)", soft_wrap=True)
