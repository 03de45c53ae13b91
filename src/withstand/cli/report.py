"""The command ``withstand report``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from withstand import reporting
from withstand.cli.arguments import parse, plain_parser
from withstand.cli.commands import COMMANDS
from withstand.cli.compare import add_exports, export
from withstand.cli.terminal import OUTPUT
from withstand.core.zoo import HOME, run_path
from withstand.types import RunFolderError


def report(arguments: Sequence[str]) -> None:
    """The command, with what stands after its name."""
    parser = plain_parser(
        "withstand report",
        COMMANDS["report"].about,
    )
    parser.add_argument(
        "runs", nargs="+", type=str, help="Run folders; several make one page to compare them."
    )
    parser.add_argument("--out", type=str | None, default=None, help="The page; RUN/report.html for one run.")
    parser.add_argument("--title", type=str | None, default=None, help="Its title.")
    add_exports(parser)
    values = parse(parser, arguments)
    if models := [run for run in values.runs if ":" in run and not Path(run).exists()]:
        raise RunFolderError(
            f"A report is of run folders, and {models[0]} is none. Of a model, `withstand evaluate "
            f"{models[0]} --weights=FILE --data.name=mnist` makes a folder of it, and its report."
        )
    runs = [run_path(run) for run in values.runs]
    out = values.out
    if out is None and len(runs) == 1 and runs[0].parent == HOME:  # which is only read
        out = f"{values.runs[0]}.html"
    page = reporting.report(runs, out, title=values.title)
    OUTPUT.print(f"report: {page}", soft_wrap=True)
    export(runs, page, values)
