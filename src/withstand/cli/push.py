"""The command ``withstand push``."""

from __future__ import annotations

from collections.abc import Sequence

from withstand.cli.arguments import parse, plain_parser
from withstand.cli.commands import COMMANDS
from withstand.cli.terminal import OUTPUT
from withstand.runs import sharing


def push(arguments: Sequence[str]) -> None:
    """The command, with what stands after its name."""
    parser = plain_parser("withstand push", COMMANDS["push"].about)
    parser.add_argument("run", type=str, help="The run folder.")
    parser.add_argument("to", type=str, help="hub:OWNER/NAME, or a folder to make.")
    parser.add_argument(
        "--private", type=bool | None, default=None, help="Whether a new repository is private."
    )
    values = parse(parser, arguments)
    OUTPUT.print(f"shared: {sharing.push(values.run, values.to, private=values.private)}", soft_wrap=True)
