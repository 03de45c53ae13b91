"""What the command line shows of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["print_metrics"]


def print_metrics(metrics: Mapping[str, Any], console: Console, errors: Console) -> None:
    """Prints accuracies with their intervals, one table an attack, and then the warnings.

    Args:
        metrics: As ``metrics.json`` holds them.
        console: For the tables.
        errors: For the warnings.
    """
    table = Table("test data", "epsilon", "accuracy", "95 % interval", title=str(metrics["dataset"]))
    table.add_row("clean", "", *_cells(metrics["clean"]))
    for attack in metrics["attacks"]:
        table.add_section()
        for number, point in enumerate(attack["curve"]):
            name = "" if number else attack["name"]
            table.add_row(name, f"{point['epsilon']:.4g}", *_cells(point))
    console.print(table)
    for attack in metrics["attacks"]:
        console.print(f"{attack['name']}: {attack['description']}")
    for warning in metrics["warnings"]:
        errors.print(f"warning: {warning}", style="yellow")


def _cells(point: Mapping[str, Any]) -> tuple[str, str]:
    share = f"{point['accuracy']:.2%}"
    return share, f"{point['lower']:.2%} to {point['upper']:.2%} of {point['total']}"
