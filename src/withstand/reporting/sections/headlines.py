"""The figures to see first, and what makes them doubtful: warnings, and checks for false robustness."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from withstand.core.dataset_info import feature_of, form_of
from withstand.core.writing import percent
from withstand.reporting import formatting
from withstand.reporting.history import best_epoch
from withstand.reporting.naming import missing, was_trained_here
from withstand.reporting.read import Run
from withstand.reporting.section import PROSE, Card, Cell, Notice, Prose, Section, Table
from withstand.reporting.table import clean, headline_attacks, headline_certificates, method_name, norms
from withstand.results.measurements import (
    CERTIFIED,
    CLEAN,
    LARGE_EPSILON,
    NON_FINITE_GRADIENTS,
    VANISHING_GRADIENTS,
    Measurement,
)
from withstand.results.results import Check, Results

PLACE = 0
_TEXTS = PROSE["checks"]
_KINDS = {False: "failed", True: "passed", None: "not-run"}


def section(run: Run) -> list[Section | None]:
    """The figures to see first, and the checks that make them doubtful."""
    return [headline(run), checks(run)]


def headline(run: Run) -> Section:
    """Clean, attacked and certified accuracy as cards, and warnings."""
    parts = Section("results", "Results", "summary", is_brief=True, measures=[CLEAN])
    results = run.results
    if results is None:
        lacking = missing(run, "metrics.json", "This run has not been evaluated.", "evaluate")
        return replace(parts, prose=[lacking])
    note = formatting.dataset_note(results.dataset)
    return replace(
        parts,
        cards=_cards(run, results),
        notices=[_warnings(run, results)] if num_warnings(run) else [],
        notes=[*_nothing_left(run), *([Prose(note, "note", "Data set.")] if note else [])],
    )


def num_failed_checks(run: Run) -> int:
    """How many checks for false robustness failed."""
    return sum(check.passed is False for check in run.results.checks) if run.results else 0


def num_warnings(run: Run) -> int:
    """How many warnings there are, each failed check one of them."""
    return num_failed_checks(run) + len(other_warnings(run.results)) if run.results else 0


def other_warnings(results: Results) -> list[str]:
    """The warnings beside those of failed checks, which end in the findings of the checks."""
    findings = tuple(check.finding for check in results.checks if check.passed is False)
    return [warning for warning in results.warnings if not (findings and warning.endswith(findings))]


def _cards(run: Run, results: Results) -> list[Card]:
    """The headline figures, and what they were measured on."""
    order = norms(run)
    shown = [row for row in (*headline_attacks(run), *headline_certificates(run)) if not _is_nothing(row)]
    shown.sort(key=lambda row: (order.index(row.norm), row.level))
    details = [results.scored, f"{results.num_classes} classes"]
    if results.inputs and len(results.inputs.shape) != 3:
        details.append(form_of(results.inputs.shape))
    if results.inputs and results.inputs.low:
        feature = feature_of(results.inputs.shape)
        details.append(f"epsilon in shares of each {feature}'s range, which About lists")
    if results.weights and was_trained_here(run):
        details.append(f"{results.weights} weights{_of_epoch(run, results)}")
    return [
        *(_card(row, results) for row in (clean(run), *shown)),
        Card("Data set", formatting.dataset_title(results.dataset), details),
    ]


def _is_nothing(row: Measurement) -> bool:
    """Whether a card would say ``0.0 %``."""
    return formatting.share_text(row) == percent(0.0)


def _nothing_left(run: Run) -> list[Prose]:
    """A line for each norm in which nothing is left under attack, or proven, from some epsilon on."""
    lines = {
        "Under attack nothing is left": headline_attacks(run),
        "Nothing is certified": headline_certificates(run),
    }
    return [
        Prose(f"{words} from {formatting.budget(row.norm, row.level)} on: {formatting.counted(row)}.")
        for words, shown in lines.items()
        for row in _first_nothing(shown)
    ]


def _first_nothing(shown: Sequence[Measurement]) -> list[Measurement]:
    """Of each norm the row at the smallest epsilon that leaves nothing."""
    least: dict[str, Measurement] = {}
    for row in sorted(filter(_is_nothing, shown), key=lambda row: row.level):
        least.setdefault(row.norm, row)
    return list(least.values())


def _of_epoch(run: Run, results: Results) -> str:
    """Which epoch the best weights are of, where the training is known."""
    best = best_epoch(run.history) if run.history and results.weights == "best" else None
    return f", epoch {best[0]} of {best[1]}" if best else ""


def _card(row: Measurement, results: Results) -> Card:
    """An accuracy, what it was measured by, and how many examples it counts."""
    label, by = f"Attacked, {formatting.budget(row.norm, row.level)}", [f"under {row.by}"]
    counted_as = "predictions correct" if results.num_repeats > 1 else "correct"
    if row.measure == CLEAN:
        label, by = "Clean accuracy", []
    elif row.measure == CERTIFIED:
        label, by = label.replace("Attacked", "Certified"), [f"proven, method {method_name(results, row.by)}"]
        counted_as = "certified"
    share, interval, counted = formatting.measured(row)
    return Card(label, share, [f"95 % interval {interval}", *by, f"{counted} {counted_as}"])


def _warnings(run: Run, results: Results) -> Notice:
    failed = num_failed_checks(run)
    checks = "1 check for false robustness" if failed == 1 else f"{failed} checks for false robustness"
    about = Cell(f"{checks} failed", [": do not quote attacked accuracy as robustness."], href="checks")
    items: list[Cell | str] = [about] if failed else []
    title = "Warning" if num_warnings(run) == 1 else "Warnings"
    return Notice(title, [*items, *other_warnings(results)], "warnings", key="warnings")


def checks(run: Run) -> Section | None:
    """All checks, the failed ones first, and how many are of which kind; None where there are none."""
    checks = run.results.checks if run.results else []
    if not checks:
        return None
    checks = sorted(checks, key=lambda check: list(_KINDS).index(check.passed))
    numbers = Counter(check.outcome for check in checks)
    order = dict.fromkeys([*(["failed"] if numbers["failed"] else []), "passed", *numbers])
    numbers_in_words = [f"{numbers[outcome]} {outcome}" for outcome in order]
    meaning = _TEXTS["failed" if numbers["failed"] else "none_failed"]
    rows, title = [_check_row(check) for check in checks], "The checks and their results"
    return Section(
        "checks",
        "Checks for false robustness",
        "summary",
        prose=[Prose(f"{', '.join(numbers_in_words)}. {meaning}")],
        tables=[Table(title, ["Check", "Result"], rows, kind="checks", is_folded=not numbers["failed"])],
        is_brief=True,
        measures=[LARGE_EPSILON, VANISHING_GRADIENTS, NON_FINITE_GRADIENTS],  # which the findings tell
    )


def _check_row(check: Check) -> list[Cell]:
    kind, verdict = _KINDS[check.passed], check.outcome.capitalize()
    finding = check.finding.removeprefix(f"{verdict}: ")  # which stands beside it
    finding = formatting.sentence(finding[:1].upper() + finding[1:])
    return [Cell(check.title, [finding]), Cell(verdict, is_words=True, kind=kind)]
