"""What the page says of the checks for false robustness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from withstand.reporting.measures_schema import Check

__all__ = ["CheckRow", "ChecksView", "view_checks"]

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
    """All checks, the failed ones first, and how many are of which kind in words."""

    rows: Sequence[CheckRow]
    summary: str
    has_failed: bool


def view_checks(found: Sequence[Check]) -> ChecksView:
    """What the page shows of the checks, at least one."""
    rows = sorted(map(_row, found), key=lambda row: _ORDER.index(row.state))
    numbers = {state: sum(row.state == state for row in rows) for state in _ORDER}
    parts = [f"{numbers[_FAILED]} failed"] if numbers[_FAILED] else []
    parts += [f"{numbers[_PASSED]} passed"]
    parts += [f"{numbers[_NOT_RUN]} not run"] if numbers[_NOT_RUN] else []
    return ChecksView(rows, f"{', '.join(parts)}.", has_failed=numbers[_FAILED] > 0)


def _row(check: Check) -> CheckRow:
    state = _NOT_RUN if check["passed"] is None else _PASSED if check["passed"] else _FAILED
    symbol, verdict = _VERDICTS[state]
    return CheckRow(state, symbol, verdict, check["title"], check["finding"])
