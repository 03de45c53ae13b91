"""The page of several runs: choices, tables that sort, differences."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from withstand.reporting import report

WriteRun = Callable[..., Path]


@pytest.fixture(autouse=True)
def _short_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("withstand.reporting.page.get_plotlyjs", lambda: "")


@pytest.fixture
def page(write_run: WriteRun, metrics: dict[str, Any], tmp_path: Path) -> str:
    weaker = json.loads(json.dumps(metrics))
    weaker["clean"] |= {"accuracy": 0.9, "correct": 900}
    corruptions = {"description": "", "num_examples": 9, "kinds": [], "mean": 0.5}
    folders = [
        write_run("one", recipe="name: one", metrics=metrics | {"corruptions": corruptions}),
        write_run("two <b>", recipe="name: two <b>", metrics=weaker),
        write_run("bare", recipe="name: bare", only={"train.csv"}),
    ]
    return report(folders, tmp_path / "page.html").read_text(encoding="utf-8")


def test_choices_are_folds_without_a_script(page: str) -> None:
    for name, number in (("against-clean", 2), ("against-cost", 3), ("baseline", 2)):
        assert len(re.findall(rf'<details name="{name}"', page)) == number
        assert len(re.findall(rf'<details name="{name}" open>', page)) == 1
    assert page.count("<details") == page.count("</details>")
    assert "Pareto-best of 2: one. No other" in page
    assert 'querySelectorAll(".choice")' in page


def test_figures_can_be_sorted_by_their_numbers(page: str) -> None:
    table = page[page.index('id="compare-results"') : page.index('id="compare-pairs"')]
    assert '<table class="compare" data-sortable>' in table
    for share in ("0.981", "0.9", "0.402"):
        assert f'<td class="number" data-sort="{share}"><b>' in table
    assert 'class="costs" data-sort="100.0"' in table
    header = len(re.findall('<th scope="col"', table))
    rows = [
        re.findall(r'<t[hd](?: class="[^"]*")?(?: colspan="(\d+)")?', row) for row in table.split("<tr>")[2:]
    ]
    assert [sum(int(span or 1) for span in row) for row in rows] == [header] * 3
    assert "Under corruptions" in table
    assert 'querySelectorAll("table[data-sortable]")' in page


def test_differences_are_escaped(page: str) -> None:
    assert "Differences on the same test examples" in page
    assert "two &lt;b&gt; and one on clean images: no difference that 3 examples can show" in page
    assert "two <b>" not in page
