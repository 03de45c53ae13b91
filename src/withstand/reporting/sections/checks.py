"""The checks for false robustness."""

from __future__ import annotations

from withstand.reporting.read import Run
from withstand.reporting.section import Cell, Prose, Section, Table
from withstand.reporting.wording import sentence
from withstand.results.measurements import LARGE_EPSILON, VANISHING_GRADIENTS
from withstand.results.results import Check, Results

PLACE = 10
_STATES = {False: ("failed", "Failed"), True: ("passed", "Passed"), None: ("not-run", "Not run")}
_FAILED = "Where a check failed, attacked accuracy is likely too high: do not quote it as robustness."
_NONE_FAILED = "They can fail to find what is wrong; passing them is no proof."


def section(run: Run) -> Section | None:
    """All checks, the failed ones first, and how many are of which kind."""
    checks = run.results.checks if run.results else []
    if not checks:
        return None
    states = list(_STATES)
    numbers = {state: sum(check.passed is state for check in checks) for state in states}
    told = [f"{numbers[state]} {_STATES[state][1].lower()}" for state in states if numbers[state] or state]
    meaning = _FAILED if numbers[False] else _NONE_FAILED
    rows = [_row(check) for check in sorted(checks, key=lambda check: states.index(check.passed))]
    return Section(
        "checks",
        "Checks for false robustness",
        "summary",
        prose=[Prose(f"{', '.join(told)}. {meaning}")],
        tables=[Table("The checks and what they found", ["Check", "Result"], rows, kind="checks")],
        is_brief=True,
        measures=[LARGE_EPSILON, VANISHING_GRADIENTS],  # which the findings tell
    )


def other_warnings(results: Results) -> list[str]:
    """The warnings beside those of failed checks, which end in what the checks found."""
    findings = tuple(check.finding for check in results.checks if check.passed is False)
    return [warning for warning in results.warnings if not (findings and warning.endswith(findings))]


def _row(check: Check) -> list[Cell]:
    kind, verdict = _STATES[check.passed]
    finding = check.finding.removeprefix(f"{_STATES[None][1]}: ")  # which stands beside it
    finding = sentence(finding[:1].upper() + finding[1:])
    return [Cell(check.title, [finding]), Cell(verdict, is_words=True, kind=kind)]
