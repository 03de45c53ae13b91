"""The command ``withstand compare``."""

from __future__ import annotations

from pathlib import Path

import pytest

from withstand.cli.compare import compare
from withstand.core.run_folder import RunFolder
from withstand.results.measurements import CLEAN, Measurement, table_of
from withstand.results.results import Results
from withstand.results.results_file import write_results
from withstand.types import RecipeError, RunFolderError

ACCURACY = Measurement(CLEAN, value=0.9, lower=0.85, upper=0.95, correct=90, total=100)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A folder with two runs."""
    for number, num_correct in enumerate((40, 90)):
        folder = tmp_path / "sweep" / f"run-{number}"
        folder.mkdir(parents=True)
        write_results(RunFolder(folder), Results("digits", 100, 10), table_of([ACCURACY]))
        (folder / "recipe.yaml").write_text(f"name: run-{number}\n")
        rows = [f"{index},1,{int(index < num_correct)}" for index in range(100)]
        (folder / "examples.csv").write_text("\n".join(["index,label,prediction", *rows, ""]))
    return tmp_path / "sweep"


def test_compare_writes_a_page_and_tables(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare([str(sweep), "--title=Two", f"--tables={tmp_path / 'tables'}"])
    page = (sweep / "compare.html").read_text(encoding="utf-8")
    assert "<h1>Two</h1>" in page
    assert "run-1 is 50.0 points above run-0 on clean images" in page
    assert (tmp_path / "tables" / "comparison.tex").exists()
    printed = capsys.readouterr().out
    assert "2 runs compared:" in printed
    assert "comparison.md" in printed


def test_compare_writes_the_page_where_out_says(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    compare([str(sweep / "run-1"), str(sweep / "run-0")])
    assert (tmp_path / "compare.html").exists()
    compare([str(sweep), f"--out={tmp_path / 'pages' / 'mine.html'}"])
    assert (tmp_path / "pages" / "mine.html").exists()


def test_compare_writes_figures_beside_the_page(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def draw(runs: list[Path], folder: Path, image_format: str) -> list[Path]:
        asked.extend([[run.name for run in runs], folder, image_format])
        return []

    monkeypatch.setattr("withstand.cli.compare.export_figures", draw)
    compare([str(sweep), "--figures=svg"])
    assert asked == [["run-0", "run-1"], sweep / "compare-figures", "svg"]


def test_compare_refuses_what_does_not_fit(sweep: Path) -> None:
    with pytest.raises(RunFolderError, match="only one run"):
        compare([str(sweep / "run-0")])
    with pytest.raises(RecipeError, match="figures"):
        compare([str(sweep), "--figures=gif"])
    with pytest.raises(RecipeError, match="--tables"):
        compare([str(sweep), "--table=x"])
