"""The command ``withstand data``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from withstand.cli.arguments import parse, plain_parser
from withstand.cli.commands import COMMANDS
from withstand.cli.terminal import OUTPUT
from withstand.core.dataset_info import KNOWN_DATASETS
from withstand.data import fetch
from withstand.data.load import is_present
from withstand.data.locations import data_root
from withstand.types import RecipeError


def data(arguments: Sequence[str]) -> None:
    """The command, with what stands after its name."""
    parser = plain_parser(
        "withstand data",
        COMMANDS["data"].about,
    )
    parser.add_argument("action", nargs="?", type=str, default="list", help="list, or fetch.")
    parser.add_argument("name", nargs="?", type=str | None, default=None, help="The data set to fetch.")
    parser.add_argument(
        "--root", type=str | None, default=None, help="The data root; else WITHSTAND_DATA, else ./data."
    )
    values = parse(parser, arguments)
    root = data_root(values.root)
    if values.action == "fetch" and values.name is not None:
        for path in fetch(values.name, root):
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
