"""The command ``withstand``: which command is meant, errors as one line, and the overview."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from io import TextIOWrapper
from itertools import takewhile

from rich.table import Table

from withstand._version import __version__
from withstand.cli.commands import COMMANDS
from withstand.cli.groups import group_joined
from withstand.cli.interrupts import leaving_at_once
from withstand.cli.terminal import ERRORS, OUTPUT
from withstand.core.folder_path import is_url
from withstand.core.suggest import nearest
from withstand.core.trust import trusting
from withstand.types import RecipeError, RunFolderError, WithstandError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``withstand``.

    Args:
        arguments: What stands after the program's name; the process's own where None.

    Returns:
        The exit status: 0 when done, 2 for an error of input or surroundings, 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _write_what_can_be_written()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    if not arguments or arguments[0] in ("-h", "--help"):
        _print_overview()
        return 0
    if arguments[0] == "--version":
        OUTPUT.print(__version__)
        return 0
    warnings.formatwarning = partial(_once_on_one_line, set())
    try:
        _require_utf8(arguments)
        with trusting(arguments):
            _run(arguments[0], [argument for argument in arguments[1:] if argument != "--trust"])
        sys.stdout.flush()
    except (WithstandError, OSError) as error:
        if not isinstance(error, WithstandError):
            _silence_output()
        ERRORS.print(f"error: {error}", style="bold red", soft_wrap=True)  # paths stay whole
        return 2
    except KeyboardInterrupt:
        ERRORS.print(
            "Interrupted. Results so far stay. The same command goes on: with a training from its last "
            "checkpoint, with a measurement after the last attack or certificate on the last batch that was "
            "finished, with a benchmark after its last instance."
        )
        return 130
    return 0


def _write_what_can_be_written() -> None:
    """Lets a question mark stand for a sign such as ℓ where the terminal's encoding has none."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="replace")


def _silence_output() -> None:
    """Lets no more be written where writing failed, such as to a full disk: Python would try at its end."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _once_on_one_line(shown: set[str], message: Warning | str, *_: object) -> str:
    """A warning of Python without the line of code that it came from; nothing where it was shown before."""
    text = f"warning: {message}\n"
    is_new = text not in shown
    shown.add(text)
    return text if is_new else ""


def _require_utf8(arguments: Sequence[str]) -> None:
    """Accepts arguments that can be written down, before anything is trained."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise RecipeError(f"The argument {argument!a} is not UTF-8. Rename what it names.") from error


def _run(name: str, arguments: Sequence[str]) -> None:
    """Imports the command that is meant, and no other, and runs it.

    Raises:
        RecipeError: there is none of that name.
        SystemExit: help was asked for, and has been printed.
    """
    if name not in COMMANDS:
        raise RecipeError(f"There is no command {name!r}; {nearest(name, COMMANDS)}")
    _require_folders(name, arguments)
    if any(argument in ("-h", "--help") for argument in arguments):
        OUTPUT.print(COMMANDS[name].short_help(), soft_wrap=True)
        raise SystemExit(0)
    arguments = ["--help" if argument == "--help-all" else argument for argument in arguments]
    with leaving_at_once():
        module = import_module(f"withstand.cli.{name}")
    with group_joined(name) as has_work:
        if has_work:
            getattr(module, name)(arguments)


def _require_folders(name: str, arguments: Sequence[str]) -> None:
    """Accepts first arguments, all before the options, that name no store by its URL."""
    for argument in takewhile(lambda argument: not argument.startswith("-"), arguments):
        if "://" in argument and is_url(argument):  # hub:/PATH and folder:/PATH are none
            raise RunFolderError(
                f"{argument} is a URL, which `withstand {name}` does not read. Copy what lies there into a "
                "folder, and name that."
            )


def _print_overview() -> None:
    OUTPUT.print(
        "withstand trains classifiers to withstand noise and attack, and measures how much.\n\n"
        "Each command explains itself with --help. A first run, on data that comes with the package:\n"
        "  withstand run digits-adversarial\n\n"
        "Recipes and run folders of others run no code of their own, unless a command has --trust.\n",
    )
    table = Table(box=None, show_header=False, padding=(0, 2))
    for command in COMMANDS.values():
        table.add_row(f"withstand {command.usage}", command.summary)
    OUTPUT.print(table)
