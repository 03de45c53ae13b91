"""The page's list of checks for false robustness."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from withstand.reporting import report
from withstand.reporting.sections.headlines import checks, other_warnings


def view(evaluated: Any) -> Any:
    return checks(evaluated.run())


def test_failed_checks_come_first_and_are_counted(everything: Any, build: Any) -> None:
    shown = view(everything)
    assert [build.texts(row) for row in shown.tables[0].rows] == [
        ["A huge epsilon fells all At epsilon 1 accuracy is still 31.0 %.", "Failed"],
        ["Gradients do not vanish 0 of 1,000 gradients are zero.", "Passed"],
        ["Transfer finds no more No other run was named.", "Not run"],
    ]
    assert [row[1].kind for row in shown.tables[0].rows] == ["failed", "passed", "not-run"]
    assert shown.prose[0].text.startswith("1 failed, 1 passed, 1 not run. Where a check failed")
    assert shown.is_brief


def test_check_kinds_without_any_are_not_counted(everything: Any) -> None:
    shown = view(everything.but(checks=everything.results.checks[:1]))
    assert shown.prose[0].text == "1 passed. They can miss what is wrong; passing them is no proof."


def test_check_findings_are_sentences_that_do_not_repeat_the_verdict(everything: Any) -> None:
    first, second, third = everything.results.checks
    checks = [first, replace(second, passed=None, finding="Not run: name other runs.")]
    checks.append(replace(third, finding="on 3 of 4 examples"))
    rows = view(everything.but(checks=checks)).tables[0].rows
    assert [row[0].small[0] for row in rows[::2]] == ["On 3 of 4 examples.", "Name other runs."]


@pytest.mark.parametrize("outcome", ["Not run", "Not needed", "Not decided"])
def test_check_without_an_outcome_says_why(everything: Any, outcome: str) -> None:
    check = replace(everything.results.checks[0], passed=None, finding=f"{outcome}: the reason.")
    shown = view(everything.but(checks=[check]))
    ((title, verdict),) = shown.tables[0].rows
    assert (title.small, verdict.text, verdict.kind) == (["The reason."], outcome, "not-run")
    assert shown.prose[0].text.startswith(f"0 passed, 1 {outcome.lower()}.")


def test_checks_are_just_below_the_headline_figures(write_run: Any, everything: Any) -> None:
    page = report(write_run(evaluated=everything)).read_text(encoding="utf-8")
    headings = [page.index(f'id="run-{name}"') for name in ("results", "checks", "accuracy")]
    assert headings == sorted(headings)
    assert "do not quote it as robustness" in page


def test_failed_check_is_named_once_and_counted_as_a_warning(
    write_run: Any, everything: Any, tmp_path: Any
) -> None:
    finding = everything.results.checks[2].finding
    written = finding.replace("epsilon 1", "ε\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}1")
    more = everything.but(warnings=[f"Not all broken: {finding}", "Something else."])
    assert other_warnings(more.results) == ["Something else."]
    folder = write_run(evaluated=more)
    page = report(folder).read_text(encoding="utf-8")
    assert page.count(written) == 1
    assert '<a href="#run-checks">1 check for false robustness failed</a>' in page
    assert "<li>Something else.</li>" in page
    folders = [folder, write_run("other", recipe="name: other")]
    compared = report(folders, tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<a href="#run-1-warnings"><b>2</b> <small>1 failed check</small></a>' in compared
