"""The page of many runs: groups first, single runs folded."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from withstand.reporting import report
from withstand.reporting.over_seeds import group_curves, view_seeds
from withstand.reporting.read import read_run

WriteRun = Callable[..., Path]
RECIPE = "{{name: {name}/seed={seed}, seed: {seed}, model: {{name: {name}}}}}"


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


def test_many_runs_are_folded(folders: list[Path], tmp_path: Path) -> None:
    page = page_of(folders, tmp_path)
    assert page.count('<article class="run"') == 9
    assert len(re.findall(r"<details>\s*<summary><h2 class=\"run-title\"", page)) == 9
    assert "The curves of all 9 runs" in page
    assert page.count("<details") == page.count("</details>")
    assert "Over seeds" in page
    assert "Against clean accuracy" in page
    assert page.index(">Trade-offs<") < page.index(">Over seeds<") < page.index(">Each run<")


def test_few_runs_are_shown_in_full(folders: list[Path], tmp_path: Path) -> None:
    page = page_of(folders[:4], tmp_path)
    assert not re.findall(r"<summary><h2", page)
    assert "Over seeds" in page
    assert "Over seeds" not in page_of([folders[0], folders[3]], tmp_path)


def test_many_runs_are_brief(folders: list[Path], tmp_path: Path) -> None:
    page = page_of(folders, tmp_path)
    assert page.count("each run's training, images, noise, corruptions and classes are left out") == 9
    assert f"withstand report {folders[0]}</code>" in page
    parts = {part: f'id="run-1-part-{part}"' in page for part in ("summary", "about", "training", "examples")}
    assert parts == {"summary": True, "about": True, "training": False, "examples": False}
    assert "images, noise, corruptions and classes are left out" not in page_of(folders[:8], tmp_path)


def test_few_single_runs_are_told_apart_by_the_table_of_runs(write_run: WriteRun) -> None:
    runs = [
        read_run(write_run(name, recipe=RECIPE.format(name=name, seed=0))) for name in ("mlp", "cnn", "vgg")
    ]
    assert view_seeds(runs) is None


def test_views(folders: list[Path]) -> None:
    runs = [read_run(folder) for folder in folders]
    view = view_seeds(runs)
    assert view is not None
    assert [row[:2] for row in view.rows] == [["mlp", "3"], ["cnn", "3"], ["vgg", "3"]]
    assert view_seeds(runs[:1]) is None


def test_mean_curves_begin_at_clean_accuracy(folders: list[Path]) -> None:
    curves = group_curves([read_run(folder) for folder in folders])
    assert list(curves) == ["ℓ∞"]
    assert [curve.name for curve in curves["ℓ∞"]] == ["mlp", "cnn", "vgg"]
    points = curves["ℓ∞"][0].points
    assert [point["epsilon"] for point in points] == [0.0, 0.1, 0.3]
    assert [point["accuracy"] for point in points] == pytest.approx([0.981, 0.905, 0.402])


def test_too_many_groups_have_no_curves(write_run: WriteRun) -> None:
    folders = [write_run(f"r{n}", recipe=RECIPE.format(name=f"m{n}", seed=0)) for n in range(9)]
    assert group_curves([read_run(folder) for folder in folders]) == {}
