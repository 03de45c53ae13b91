"""The figures to see first, and what makes them doubtful."""

from __future__ import annotations

from dataclasses import replace

from withstand.reporting.naming import missing
from withstand.reporting.read import Run
from withstand.reporting.section import Card, Cell, Notice, Prose, Section
from withstand.reporting.sections.checks import other_warnings
from withstand.reporting.table import clean, headline_attacks, headline_certificates, method_name, norms
from withstand.reporting.wording import (
    budget,
    count,
    counted,
    dataset_note,
    dataset_title,
    interval,
    share_text,
)
from withstand.results.measurements import CERTIFIED, CLEAN, Measurement
from withstand.results.results import Results

PLACE = 0


def section(run: Run) -> Section:
    """Clean, attacked and certified accuracy as cards, and warnings."""
    parts = Section("results", "Results", "summary", is_brief=True, measures=[CLEAN])
    if run.results is None:
        return replace(
            parts, prose=[missing(run, "metrics.json", "This run has not been evaluated.", "evaluate")]
        )
    note = dataset_note(run.results.dataset)
    return replace(
        parts,
        cards=_cards(run, run.results),
        notices=[_warnings(run, run.results)] if num_warnings(run) else [],
        notes=[Prose(note, "note", "Data set.")] if note else [],
    )


def num_failed_checks(run: Run) -> int:
    """How many checks for false robustness failed."""
    return sum(check.passed is False for check in run.results.checks) if run.results else 0


def num_warnings(run: Run) -> int:
    """How many warnings there are, each failed check one of them."""
    return num_failed_checks(run) + len(other_warnings(run.results)) if run.results else 0


def _cards(run: Run, results: Results) -> list[Card]:
    """The headline figures, and what they were measured on."""
    order = norms(run)
    shown = [*headline_attacks(run), *headline_certificates(run)]
    shown.sort(key=lambda row: (order.index(row.norm), row.level))
    right = "predictions right" if results.num_repeats > 1 else "right"
    details = [f"{count(results.num_examples)} test examples", f"{results.num_classes} classes"]
    details += [f"{results.weights} weights"] if results.weights else []
    return [
        _card("Clean accuracy", clean(run), [], right),
        *(_card_of(row, results, right) for row in shown),
        Card("Data set", dataset_title(results.dataset), details),
    ]


def _card_of(row: Measurement, results: Results, right: str) -> Card:
    at = budget(row.norm, row.level)
    if row.measure == CERTIFIED:
        method = f"proven, method {method_name(results, row.by)}"
        return _card(f"Certified, {at}", row, [method], "certified")
    return _card(f"Attacked, {at}", row, [f"under {row.by}"], right)


def _card(label: str, row: Measurement, details: list[str], counted_as: str) -> Card:
    return Card(
        label, share_text(row), [f"95 % interval {interval(row)}", *details, f"{counted(row)} {counted_as}"]
    )


def _warnings(run: Run, results: Results) -> Notice:
    failed = num_failed_checks(run)
    checks = "1 check for false robustness" if failed == 1 else f"{failed} checks for false robustness"
    about = Cell(f"{checks} failed", [": do not quote attacked accuracy as robustness."], href="checks")
    items: list[Cell | str] = [about] if failed else []
    title = "Warning" if num_warnings(run) == 1 else "Warnings"
    return Notice(title, [*items, *other_warnings(results)], "warnings", key="warnings")
