"""The command ``withstand compare``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from withstand.cli.arguments import parse, plain_parser
from withstand.cli.commands import COMMANDS
from withstand.cli.terminal import OUTPUT
from withstand.core.zoo import run_path
from withstand.reporting import export_figures, export_tables, find_runs, report
from withstand.reporting.image_files import ImageFormat
from withstand.types import RunFolderError

_PAGE = "compare.html"


def compare(arguments: Sequence[str]) -> None:
    """Writes one page of several runs beside each other, and on request its tables and figures.

    Raises:
        RecipeError: an option is unknown or does not fit.
        RunFolderError: there are fewer than two runs, or one is damaged.
    """
    parser = plain_parser(
        "withstand compare",
        COMMANDS["compare"].about,
    )
    parser.add_argument("dirs", nargs="+", type=str, help="Run folders, or folders that hold some.")
    parser.add_argument(
        "--out", type=str | None, default=None, help=f"The page; else {_PAGE} in the only DIR, or here."
    )
    parser.add_argument("--title", type=str | None, default=None, help="The page's title.")
    add_exports(parser)
    values = parse(parser, arguments)
    dirs = [*map(run_path, values.dirs)]
    runs = find_runs(dirs)
    if len(runs) < 2:
        raise RunFolderError(
            f"There is only one run to compare, {runs[0]}. Name another, or report it alone: "
            f"withstand report {runs[0]}"
        )
    beside = dirs[0] / _PAGE if len(dirs) == 1 else Path(_PAGE)
    page = report(runs, beside if values.out is None else values.out, title=values.title)
    OUTPUT.print(f"{len(runs)} runs compared: {page}", soft_wrap=True)
    export(runs, page, values)


def add_exports(parser: ArgumentParser) -> None:
    """Adds the options that say what is written beside a page."""
    parser.add_argument(
        "--tables", type=str | None, default=None, help="A folder for its tables in Markdown and LaTeX."
    )
    parser.add_argument(
        "--figures",
        type=ImageFormat | None,
        default=None,
        help="svg or png: also write its figures, into a folder beside the page.",
    )


def export(runs: Sequence[Path], page: Path, values: Namespace) -> None:
    """Writes the tables and figures that were asked for.

    Args:
        runs: Run folders, one or several.
        page: Their page.
        values: With ``tables`` and ``figures``.

    Raises:
        RunFolderError: something cannot be written.
    """
    if values.tables is not None:
        for file in export_tables(runs, values.tables):
            OUTPUT.print(f"table: {file}", soft_wrap=True)
    if values.figures is not None:
        folder = page.with_name(f"{page.stem}-figures")
        files = export_figures(runs, folder, values.figures)
        OUTPUT.print(f"figures: {len(files)} in {folder}", soft_wrap=True)
