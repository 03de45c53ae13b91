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
    assert shown.num_failed == 1


def test_what_is_none_is_not_counted(measures: dict[str, Any]) -> None:
    measures["checks"] = measures["checks"][:1]
    shown = view(measures)
    assert shown.summary == "1 passed."
    assert shown.num_failed == 0


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


def test_findings_are_sentences_that_do_not_repeat_the_verdict(measures: dict[str, Any]) -> None:
    measures["checks"][1] |= {"passed": None, "finding": "Not run: name other runs."}
    measures["checks"][2]["finding"] = "on 3 of 4 examples"
    assert [row.finding for row in view(measures).rows[::2]] == ["On 3 of 4 examples", "Name other runs."]


def test_a_failed_check_is_told_once_and_counted_as_a_warning(
    write_run: WriteRun, measures: dict[str, Any], tmp_path: Path
) -> None:
    finding = measures["checks"][2]["finding"]
    measures["warnings"] = [f"Not all felled: {finding}", "Something else."]
    page = report(write_run(metrics=measures)).read_text(encoding="utf-8")
    assert page.count(finding) == 1
    assert '<a href="#run-checks">1 check for false robustness failed</a>' in page
    assert "<li>Something else.</li>" in page
    folders = [tmp_path / "run", write_run("other", recipe="name: other")]
    compared = report(folders, tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<a href="#run-1-warnings"><b>2</b> <small>1 failed check</small></a>' in compared


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
