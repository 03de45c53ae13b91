"""The command ``withstand run``."""

from __future__ import annotations

from collections.abc import Sequence

from withstand.cli.evaluate import evaluate_into
from withstand.cli.terminal import OUTPUT
from withstand.cli.train import recipe_and_folder, train_into
from withstand.core.processes import is_first
from withstand.reporting import report
from withstand.runs.asked import require_other_data


def run(arguments: Sequence[str]) -> None:
    """The command, with what stands after its name."""
    parsed, out, command = recipe_and_folder("run", arguments)
    require_other_data(parsed.recipe)
    train_into(parsed, out, command)
    evaluate_into(out, parsed, command)
    if is_first():
        OUTPUT.print(f"report: {report([out.path])}", soft_wrap=True)
