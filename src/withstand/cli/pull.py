"""The command ``withstand pull``."""

from __future__ import annotations

from collections.abc import Sequence

from withstand.cli.arguments import parse, plain_parser
from withstand.cli.commands import COMMANDS
from withstand.cli.terminal import OUTPUT
from withstand.runs import sharing


def pull(arguments: Sequence[str]) -> None:
    """The command, with what stands after its name."""
    parser = plain_parser("withstand pull", COMMANDS["pull"].about)
    parser.add_argument("source", type=str, help="hub:OWNER/NAME, or a folder that push made.")
    parser.add_argument(
        "--out", type=str | None, default=None, help="The run folder to make; runs/NAME by default."
    )
    parser.add_argument("--revision", type=str | None, default=None, help="Branch, tag or commit.")
    values = parse(parser, arguments)
    out = values.out or f"runs/{values.source.rstrip('/').rpartition('/')[2]}"
    folder = sharing.pull(values.source, out, revision=values.revision)
    OUTPUT.print(f"next: withstand evaluate {folder}", soft_wrap=True)
