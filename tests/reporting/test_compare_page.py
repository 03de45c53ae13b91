"""The page of several runs: choices, tables that sort, differences, and what is folded of many."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from withstand.reporting import report, summarize_seeds
from withstand.results.measurements import CORRUPTED

WriteRun = Callable[..., Path]
RECIPE = "{{name: {name}/seed={seed}, seed: {seed}, model: {{name: {name}}}}}"


@pytest.fixture(autouse=True)
def _short_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("withstand.reporting.page.plotly_script", lambda: "")


@pytest.fixture
def page(write_run: WriteRun, evaluated: Any, build: Any, tmp_path: Path) -> str:
    clean, *others = evaluated.rows
    weaker = replace(
        evaluated, rows=(replace(clean, value=0.9, lower=0.88, upper=0.92, correct=900), *others)
    )
    corrupted = evaluated.plus(build.measured(CORRUPTED, 500, "blur", level=1))
    folders = [
        write_run("one", recipe="name: one", evaluated=corrupted),
        write_run("two <b>", recipe="name: two <b>", evaluated=weaker),
        write_run("bare", recipe="name: bare", only={"train.csv"}),
    ]
    return report(folders, tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.fixture
def folders(write_run: WriteRun) -> list[Path]:
    """Three models with three seeds each."""
    return [
        write_run(f"{name}-{seed}", recipe=RECIPE.format(name=name, seed=seed))
        for name in ("mlp", "cnn", "vgg")
        for seed in range(3)
    ]


def page_of(folders: list[Path], out: Path) -> str:
    return report(folders, out / "page.html").read_text(encoding="utf-8")


def table_of_runs(page: str) -> str:
    start = page.index('id="compare-results"')
    return page[start : page.index("</table>", start)]


def test_compare_page_folds_choices_without_a_script(page: str) -> None:
    names = re.findall(r'<details name="([^"]+)"', page)
    assert [names.count(name) for name in dict.fromkeys(names)] == [2, 3, 2]
    for name in set(names):
        assert len(re.findall(rf'<details name="{name}" open>', page)) == 1
    assert re.findall(r'data-choice="([^"]+)"', page) == ["On the vertical axis"] * 2 + ["Baseline"]
    assert page.count("<details") == page.count("</details>")
    assert "Pareto-best of 2: one. No other" in page
    assert 'querySelectorAll(".choice")' in page


def test_compare_page_sorts_figures_by_their_numbers(page: str) -> None:
    table = table_of_runs(page)
    assert '<table class="compare" data-sortable>' in table
    for share in ("0.981", "0.9", "0.402"):
        assert f'<td class="number" data-sort="{share}"><b>' in table
    assert 'class="costs" data-sort="100.0"' in table
    header = len(re.findall('<th scope="col"', table))
    rows = [
        re.findall(r'<t[hd](?: scope="row")?(?: class="[^"]*")?(?: colspan="(\d+)")?', row)
        for row in table.split("<tr>")[2:]
    ]
    assert [sum(int(span or 1) for span in row) for row in rows] == [header] * 3
    assert "Under corruptions" in table
    assert "not evaluated: <code>withstand evaluate" in table
    assert 'querySelectorAll("table[data-sortable]")' in page


def test_compare_page_says_of_a_training_that_was_stopped_early_that_it_was(
    write_run: WriteRun, tmp_path: Path
) -> None:
    stopped = write_run("stopped", only={"train.csv", "recipe.yaml"})
    (stopped / "environment.json").write_text('{"stopped_early": {"epoch": 2, "measure": "m", "score": 0.5}}')
    table = table_of_runs(page_of([write_run("whole"), stopped], tmp_path))
    assert "stopped early after epoch 2: its sweep without --scheduler trains it to the end" in table
    assert "not evaluated" not in table


def test_compare_page_links_runs_to_their_sections(page: str) -> None:
    table = table_of_runs(page)
    assert '<a href="#run-1">one</a>' in table
    assert 'id="run-2"' in page


def test_compare_page_counts_warnings_and_links_to_them(
    write_run: WriteRun, everything: Any, tmp_path: Path
) -> None:
    folders = [write_run("doubtful", evaluated=everything), write_run("plain")]
    page = page_of(folders, tmp_path)
    assert '<a href="#run-1-warnings"><b>1</b> <small>1 failed check</small></a>' in table_of_runs(page)
    assert 'id="run-1-warnings"' in page


def test_compare_page_escapes_differences(page: str) -> None:
    assert "Differences on the same test examples" in page
    assert "two &lt;b&gt; and one on clean images: no difference that 3 examples can show" in page
    assert "two <b>" not in page


def test_compare_page_has_a_column_of_data_sets_where_they_differ(
    write_run: WriteRun, evaluated: Any, tmp_path: Path
) -> None:
    folders = [write_run("one"), write_run("two", evaluated=evaluated.but(dataset="cifar10-jpeg"))]
    table = table_of_runs(page_of(folders, tmp_path))
    assert '<th scope="col">Data set</th>' in table
    assert ">MNIST<" in table
    assert "Data set</th>" not in table_of_runs(page_of([folders[0]] * 2, tmp_path))


def test_compare_page_folds_many_runs(folders: list[Path], tmp_path: Path) -> None:
    page = page_of(folders, tmp_path)
    assert page.count('<article class="run brief"') == 9
    assert len(re.findall(r"<details>\s*<summary><h2 class=\"run-title\"", page)) == 9
    assert "The curves of all 9 runs" in page
    assert page.count("<details") == page.count("</details>")
    assert "Over seeds" in page
    assert "Against clean accuracy" in page
    assert page.index(">Over seeds<") < page.index(">Each run<") < page.index(">Trade-offs<")


def test_compare_page_folds_few_runs_in_full(folders: list[Path], tmp_path: Path) -> None:
    page = page_of(folders[:4], tmp_path)
    assert len(re.findall(r"<summary><h2", page)) == page.count('<article class="run"') == 4
    assert 'id="run-1-part-training"' in page
    assert "Over seeds" in page
    assert "Over seeds" not in page_of([folders[0], folders[3]], tmp_path)


def test_compare_page_is_brief_on_many_runs(folders: list[Path], tmp_path: Path) -> None:
    page = page_of(folders, tmp_path)
    assert page.count("each run's training, images, noise, corruptions and classes are left out") == 9
    assert f"withstand report {folders[0]}</code>" in page
    parts = {part: f'id="run-1-part-{part}"' in page for part in ("summary", "about", "training", "examples")}
    assert parts == {"summary": True, "about": True, "training": False, "examples": False}
    assert "images, noise, corruptions and classes are left out" not in page_of(folders[:8], tmp_path)


def test_compare_page_has_a_table_of_runs_that_were_only_trained(write_run: WriteRun, tmp_path: Path) -> None:
    folders = [write_run(name, only={"train.csv"}) for name in ("one", "two")]
    table = table_of_runs(page_of(folders, tmp_path))
    assert table.count('<th scope="col"') == 4  # run, clean, warnings, cost
    assert table.count("<td") == 2 * 3
    assert summarize_seeds(folders) == (["Run", "Seeds", "Clean"], [])
