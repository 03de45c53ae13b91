"""What the page says of the checks for false robustness, and of all other warnings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from withstand.reporting.measures_schema import Check
from withstand.reporting.schema import Metrics

__all__ = ["CheckRow", "ChecksView", "other_warnings", "view_checks"]

_FAILED, _PASSED, _NOT_RUN = "failed", "passed", "not-run"
_ORDER = (_FAILED, _PASSED, _NOT_RUN)
_VERDICTS = {_FAILED: ("✗", "Failed"), _PASSED: ("✓", "Passed"), _NOT_RUN: ("○", "Not run")}


@dataclass(frozen=True)
class CheckRow:
    """One check: ``state`` is ``failed``, ``passed`` or ``not-run``; ``symbol`` and ``verdict`` say it."""

    state: str
    symbol: str
    verdict: str
    title: str
    finding: str


@dataclass(frozen=True)
class ChecksView:
    """All checks, the failed ones first, how many are of which kind in words, and how many failed."""

    rows: Sequence[CheckRow]
    summary: str
    num_failed: int


def view_checks(found: Sequence[Check]) -> ChecksView:
    """What the page shows of the checks, at least one."""
    rows = sorted(map(_row, found), key=lambda row: _ORDER.index(row.state))
    numbers = {state: sum(row.state == state for row in rows) for state in _ORDER}
    parts = [f"{numbers[_FAILED]} failed"] if numbers[_FAILED] else []
    parts += [f"{numbers[_PASSED]} passed"]
    parts += [f"{numbers[_NOT_RUN]} not run"] if numbers[_NOT_RUN] else []
    return ChecksView(rows, f"{', '.join(parts)}.", numbers[_FAILED])


def other_warnings(metrics: Metrics) -> list[str]:
    """The warnings beside those of failed checks, which end in what the checks found."""
    found = tuple(check["finding"] for check in metrics.get("checks") or [] if check["passed"] is False)
    return [warning for warning in metrics.get("warnings", []) if not (found and warning.endswith(found))]


def _row(check: Check) -> CheckRow:
    state = _NOT_RUN if check["passed"] is None else _PASSED if check["passed"] else _FAILED
    symbol, verdict = _VERDICTS[state]
    finding = check["finding"].removeprefix(f"{_VERDICTS[_NOT_RUN][1]}: ")  # which stands before it
    return CheckRow(state, symbol, verdict, check["title"], finding[:1].upper() + finding[1:])
