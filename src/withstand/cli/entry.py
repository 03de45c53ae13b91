"""The command ``withstand``: which command is meant, errors as one line, and the overview."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rich.table import Table

from withstand._version import __version__
from withstand.cli.attack import attack
from withstand.cli.certify import certify
from withstand.cli.check import check
from withstand.cli.compare import compare
from withstand.cli.console import ERRORS, OUTPUT
from withstand.cli.data import data
from withstand.cli.evaluate import evaluate
from withstand.cli.moments import moments
from withstand.cli.recipes import recipes
from withstand.cli.report import report
from withstand.cli.run import run
from withstand.cli.sweep import sweep
from withstand.cli.train import train
from withstand.core.suggest import nearest
from withstand.types import RecipeError, WithstandError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``withstand``.

    Args:
        arguments: What stands after the program's name; the process's own where None.

    Returns:
        The exit status: 0 when done, 2 for an error of input or surroundings, 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
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
        _command(arguments[0]).run(arguments[1:])
    except WithstandError as error:
        ERRORS.print(f"error: {error}", style="bold red", soft_wrap=True)  # paths stay whole
        return 2
    except KeyboardInterrupt:
        ERRORS.print(
            "Interrupted. Results so far stay. The same command goes on: with a training from its last "
            "checkpoint, with a measurement after the last attack or certificate on the last batch that was "
            "finished."
        )
        return 130
    return 0


def _once_on_one_line(shown: set[str], message: Warning | str, *_: object) -> str:
    """A warning of Python without the line of code that it came from; nothing where it was shown before."""
    text = f"warning: {message}\n"
    is_new = text not in shown
    shown.add(text)
    return text if is_new else ""


@dataclass(frozen=True)
class _Command:
    run: Callable[[Sequence[str]], None]
    usage: str
    summary: str


_COMMANDS = {
    "run": _Command(run, "run RECIPE [--key=value …] [--out=DIR]", "train, evaluate and report"),
    "train": _Command(
        train, "train RECIPE [--key=value …] [--out=DIR]", "train, or go on where it was stopped"
    ),
    "evaluate": _Command(evaluate, "evaluate RUN [--evaluation.key=value …]", "measure a trained run"),
    "certify": _Command(
        certify, "certify RUN|MODEL [--norm=2 --epsilons=[0.5] …]", "prove what no attack can change"
    ),
    "check": _Command(
        check, "check MODEL|RECIPE|RUN [--data.name=NAME]", "say whether anything can be proven of a model"
    ),
    "moments": _Command(
        moments, "moments RUN [--noise_std=[0.1,0.2] …]", "compare analytic moments under noise with samples"
    ),
    "attack": _Command(
        attack, "attack RUN [--epsilon=8/255 …]", "try an attack of your own on a trained run"
    ),
    "sweep": _Command(
        sweep, "sweep SWEEP|RECIPE [--over key=v1,v2 …]", "run a recipe at every combination of values"
    ),
    "compare": _Command(
        compare,
        "compare DIR [DIR …] [--out=PAGE] [--tables=DIR] [--figures=svg]",
        "compare runs with each other",
    ),
    "report": _Command(report, "report RUN [RUN …] [--out=PAGE]", "write the page of one or several runs"),
    "recipes": _Command(recipes, "recipes [NAME]", "list the recipes and sweeps, or print one"),
    "data": _Command(data, "data [fetch NAME]", "list the data sets, or fetch one"),
}


def _command(name: str) -> _Command:
    if name not in _COMMANDS:
        raise RecipeError(f"There is no command {name!r}; {nearest(name, _COMMANDS)}")
    return _COMMANDS[name]


def _print_overview() -> None:
    OUTPUT.print(
        "withstand trains classifiers to withstand noise and attack, and measures how much.\n\n"
        "Each command explains itself with --help. A first run, on data that comes with the package:\n"
        "  withstand run digits-adversarial\n",
    )
    table = Table(box=None, show_header=False, padding=(0, 2))
    for command in _COMMANDS.values():
        table.add_row(f"withstand {command.usage}", command.summary)
    OUTPUT.print(table)
