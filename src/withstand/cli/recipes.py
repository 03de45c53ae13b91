"""The command ``withstand recipes``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from withstand.cli.arguments import parse, plain_parser
from withstand.cli.commands import COMMANDS
from withstand.cli.terminal import OUTPUT
from withstand.recipes.parsing import load_yaml, packaged_recipes
from withstand.recipes.sweep import find_sweep, packaged_sweeps, read_sweep


def recipes(arguments: Sequence[str]) -> None:
    """The command, with what stands after its name."""
    parser = plain_parser(
        "withstand recipes",
        COMMANDS["recipes"].about,
    )
    parser.add_argument("name", nargs="?", type=str | None, default=None, help="Print this recipe or sweep.")
    parser.add_argument(
        "--models", action="store_true", help="List the models that recipes can name instead."
    )
    values = parse(parser, arguments)
    if values.models:
        from withstand.models import MODEL_NAMES  # with torch

        OUTPUT.print("\n".join(MODEL_NAMES))
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
