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

_OWN = {
    "folder:PATH": "pictures in PATH/train/CLASS/ and PATH/test/CLASS/",
    "PATH.npz": "arrays train_images, train_labels, test_images, test_labels; x_train, y_train, …; or images "
    "and labels, of which a fifth is tested on",
    "FILE.py:FUNCTION": "what a function of yours gives: arrays, torch Datasets, DataLoaders or any other of "
    "ws.data.as_dataset, of (train, test)",
    "hub:OWNER/NAME": "a data set of Hugging Face; it needs pip install 'withstand[datasets]'",
    "hub:./FOLDER": "one that save_to_disk wrote, or a folder that load_dataset reads",
}
"""A name, and what it is of."""


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
        own = Table("your own data", "what they are", title="--data.name=…")
        for kind, what in _OWN.items():
            own.add_row(kind, what)
        OUTPUT.print(own)
    else:
        raise RecipeError("Expected `withstand data`, or `withstand data fetch NAME`.")
