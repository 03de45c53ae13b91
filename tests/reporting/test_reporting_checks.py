"""The page's list of checks for false robustness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from withstand.reporting import report
from withstand.reporting.checks import view_checks
from withstand.reporting.measures_schema import Check
from withstand.types import RunFolderError

WriteRun = Callable[..., Path]


def view(measures: dict[str, Any]) -> Any:
    return view_checks(cast("list[Check]", measures["checks"]))


def test_failed_ones_come_first_in_words_and_symbols(measures: dict[str, Any]) -> None:
    shown = view(measures)
    assert [(row.verdict, row.symbol, row.title) for row in shown.rows] == [
        ("Failed", "✗", "A huge epsilon fells all"),
        ("Passed", "✓", "Gradients do not vanish"),
        ("Not run", "○", "Transfer finds no more"),
    ]
    assert shown.summary == "1 failed, 1 passed, 1 not run."
    assert shown.has_failed


def test_what_is_none_is_not_counted(measures: dict[str, Any]) -> None:
    measures["checks"] = measures["checks"][:1]
    shown = view(measures)
    assert shown.summary == "1 passed."
    assert not shown.has_failed


def test_they_stand_right_under_the_headline_figures(write_run: WriteRun, measures: dict[str, Any]) -> None:
    page = report(write_run(metrics=measures)).read_text(encoding="utf-8")
    headings = [page.index(f'id="run-{name}"') for name in ("results", "checks", "accuracy")]
    assert headings == sorted(headings)
    assert "do not quote it as robustness" in page
    assert page.count('class="check failed"') == page.count('class="check not-run"') == 1


def test_passing_them_all_is_called_no_proof(write_run: WriteRun, measures: dict[str, Any]) -> None:
    measures["checks"] = measures["checks"][:2]
    page = report(write_run(metrics=measures)).read_text(encoding="utf-8")
    assert "passing them is no proof" in page
    assert "do not quote it" not in page


@pytest.mark.parametrize("content", [{}, {"checks": None}, {"checks": []}])
def test_without_checks_there_is_no_section(
    write_run: WriteRun, metrics: dict[str, Any], content: dict[str, Any]
) -> None:
    page = report(write_run(metrics=metrics | content)).read_text(encoding="utf-8")
    assert "Checks for false robustness" not in page


def test_damage_is_named(write_run: WriteRun, measures: dict[str, Any]) -> None:
    measures["checks"][1]["passed"] = "yes"
    with pytest.raises(RunFolderError, match=r"checks\[1\]\.passed must be true or false"):
        report(write_run(metrics=measures))
