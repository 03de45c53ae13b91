"""Tables for papers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from withstand.reporting import export_tables
from withstand.reporting.read import read_run
from withstand.reporting.tables import Table, comparison_tables, latex, markdown, run_tables
from withstand.types import RunFolderError

WriteRun = Callable[..., Path]
ODD = Table(r"A|b_c", ["x", "ℓ∞ & ℓ2"], [["50 % #1 {a}", r"\^~$<>…"]], "A – note − ε.")


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_markdown_is_escaped() -> None:
    lines = markdown(ODD).splitlines()
    assert lines[0] == r"### A\|b\_c"
    assert lines[2:5] == ["| x | ℓ∞ & ℓ2 |", "| --- | ---: |", r"| 50 % #1 {a} | \\^~$\<\>… |"]


def test_latex_is_escaped() -> None:
    text = latex(ODD)
    assert r"A\textbar{}b\_c. A -- note $-$ $\varepsilon$." in text
    assert r"x & $\ell_\infty$ \& $\ell_2$ \\" in text
    assert r"50 \% \#1 \{a\} & \textbackslash{}\textasciicircum{}\textasciitilde{}\$" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    assert r"\begin{tabular}{lr}" in text


def test_comparison(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    runs = [read_run(write_run(name, recipe=f"name: {name}")) for name in ("one", "two")]
    runs.append(read_run(write_run("bare", only={"train.csv"})))
    table, differences = comparison_tables(runs)
    assert list(map(plain, table.header)) == ["", "one", "two"]  # turned: more figures than runs
    cells = {plain(row[0]): plain(row[1]) for row in table.rows}
    assert cells == {
        "Data set": "MNIST",
        "Clean": "98.1 % (96.1\N{EN DASH}100.0 %)",
        "Attacked, ℓ∞ ε = 0.1": "90.5 % (88.5\N{EN DASH}92.5 %)",
        "Attacked, ℓ∞ ε = 0.3": "40.2 % (38.2\N{EN DASH}42.2 %)",
        "Training time": "1 min 40 s",
    }
    assert differences.title == "Differences from one"
    assert "Holm" in differences.note


def test_many_runs_are_rows(write_run: WriteRun) -> None:
    runs = [read_run(write_run(f"r{number}", recipe=f"name: r{number}")) for number in range(7)]
    table = comparison_tables(runs)[0]
    assert table.header[0] == "Run"
    assert [row[0] for row in table.rows] == [f"r{number}" for number in range(7)]


def test_figures_of_one_run(write_run: WriteRun, certified_metrics: dict[str, Any]) -> None:
    share = {"accuracy": 0.5, "lower": 0.4, "upper": 0.6, "correct": 50, "total": 100}
    certified_metrics |= {
        "corruptions": {
            "description": "",
            "num_examples": 100,
            "kinds": [
                {
                    "name": "blur",
                    "title": "Blur",
                    "parameter": "",
                    "levels": [{"severity": 1, "value": 1.0} | share],
                }
            ],
            "mean": 0.5,
        },
        "calibration": {"num_bins": 15, "error": 0.0213, "bins": []},
        "smoothing": {
            "description": "",
            "noise_std": 0.25,
            "failure_probability": 0.001,
            "num_selection": 10,
            "num_estimation": 100,
            "num_examples": 100,
            "accuracy": share,
            "abstained": share,
            "curve": [{"epsilon": 0.5} | share],
            "radius": {"mean": 0.1, "median": 0.1, "largest": 0.2},
        },
    }
    (table,) = run_tables(read_run(write_run(metrics=certified_metrics)))
    rows = [" | ".join(map(plain, row)) for row in table.rows]
    for expected in (
        "Clean | — | 98.1 % | 96.1–100.0 % | 981 of 1,000",
        "Attacked, ℓ∞ ε = 0.1 | fgsm | 90.5 %",
        "Certified, ℓ2 ε = 0.5 | certified-box-l2 | 71.0 %",
        "Smoothed classifier, clean | noise_std 0.25 | 50.0 %",
        "Smoothed classifier, certified, ℓ2 ε = 0.5 | holds with probability 0.999 an example | 50.0 %",
        "Blur | severity 1 | 50.0 %",
        "Under corruptions, mean | kinds and severities | 50.0 %",
        "Calibration error | 15 bins | 2.1 %",
    ):
        assert any(row.startswith(expected) for row in rows), expected


def test_files(write_run: WriteRun, tmp_path: Path) -> None:
    one, two = write_run("one"), write_run("two")
    files = export_tables([one, two], tmp_path / "new" / "tables")
    assert [file.name for file in files] == ["comparison.md", "comparison.tex"]
    assert files[0].read_text(encoding="utf-8").startswith("### Runs beside each other\n")
    assert files[1].read_text(encoding="utf-8").count(r"\begin{table}") == 2
    assert [file.name for file in export_tables([one], tmp_path)] == ["figures.md", "figures.tex"]


def test_refused(write_run: WriteRun, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no run folder"):
        export_tables([], tmp_path)
    with pytest.raises(RunFolderError, match="withstand evaluate"):
        export_tables([write_run(only={"train.csv"})], tmp_path)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(RunFolderError, match="Cannot make the folder"):
        export_tables([write_run("two")], file)


def test_an_area_is_no_share_of_examples(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    measures = ("agreement", "accuracy", "clipped_agreement", "clipped_accuracy")
    levels = [{"noise_std": 0.5} | dict.fromkeys(measures, metrics["clean"])]
    means = dict.fromkeys(measures, 0.7316)
    noise = {"description": "", "num_draws": 1, "levels": levels, "area": means, "mean": means}
    run = read_run(write_run(metrics=metrics | {"noise": noise}))
    (table,) = comparison_tables([run])
    cells = {cell for row in [table.header, *table.rows] for cell in row}
    assert "0.732" in cells  # as the page writes it
    assert "73.2\N{NO-BREAK SPACE}%" in cells
