"""Tables for papers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from withstand.reporting import export_tables
from withstand.reporting.read import Run
from withstand.reporting.tables import PaperTable, comparison_tables, latex, markdown, run_tables
from withstand.results.measurements import CORRUPTED, NOISE_ACCURACY, NOISE_AGREEMENT, Measurement
from withstand.results.results import CorruptionKind, Corruptions, Noise, Smoothing
from withstand.types import RunFolderError

WriteRun = Callable[..., Path]
ODD = PaperTable(r"A|b_c", pd.DataFrame({"x": ["50 % #1 {a}"], "ℓ∞ & ℓ₂": [r"\^~$<>…"]}), "A – note − ε.")


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_markdown_is_escaped() -> None:
    lines = markdown(ODD).splitlines()
    assert lines[0] == r"### A\|b\_c"
    header, rule, row = (re.sub(" +", " ", line) for line in lines[2:5])
    assert header == "| x | ℓ∞ & ℓ₂ |"
    assert re.fullmatch(r"\|:?-+\|-+:\|", rule)
    assert row == r"| 50 % #1 {a} | \\^~$\<\>… |"


def test_latex_is_escaped() -> None:
    text = latex(ODD)
    assert r"A\textbar{}b\_c. A -- note $-$ $\varepsilon$." in text
    assert r"x & $\ell_\infty$ \& $\ell_2$ \\" in text
    assert r"50 \% \#1 \{a\} & \textbackslash{}\textasciicircum{}\textasciitilde{}\$" in text
    assert r"\textless{}\textgreater{}\ldots{}" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    assert r"\begin{tabular}{lr}" in text


def test_latex_writes_a_number_as_it_is() -> None:
    table = PaperTable("t", pd.DataFrame({"a": ["0.10", "1e5"]}), "n")
    for text in (markdown(table), latex(table)):
        assert "0.10" in text
        assert "1e5" in text


def test_comparison_tables_hold_runs_and_differences(make_run: Callable[..., Run]) -> None:
    runs = [make_run(name, recipe=f"name: {name}") for name in ("one", "two")]
    runs.append(make_run("bare", only={"train.csv"}))
    table, differences = comparison_tables(runs)
    assert list(map(plain, table.texts.columns)) == ["", "one", "two"]  # turned: more figures than runs
    cells = {plain(name): plain(text) for name, text in zip(table.texts[""], table.texts["one"], strict=True)}
    assert cells == {
        "Data set": "MNIST",
        "Clean": "98.1 % (96.1\N{EN DASH}100.0 %)",
        "Attacked, ℓ∞ ε = 0.1": "90.5 % (88.5\N{EN DASH}92.5 %)",
        "Attacked, ℓ∞ ε = 0.3": "40.2 % (38.2\N{EN DASH}42.2 %)",
        "Training time": "1 min 40 s",
    }
    assert differences.title == "Differences from one"
    assert "Holm" in differences.note


def test_comparison_tables_have_many_runs_as_rows(make_run: Callable[..., Run]) -> None:
    table = comparison_tables([make_run(f"r{number}", recipe=f"name: r{number}") for number in range(7)])[0]
    assert table.texts.columns[0] == "Run"
    assert table.texts["Run"].tolist() == [f"r{number}" for number in range(7)]


def test_run_tables_have_a_row_a_figure(certified: Any, build: Any) -> None:
    kinds = [CorruptionKind("blur", "Blur", "", [1], [1.0])]
    evaluation = build.with_smoothing(certified).but(
        corruptions=Corruptions("", kinds), smoothing=Smoothing("", 0.25, 0.001, 10, 100)
    )
    evaluation = build.with_calibration(evaluation).plus(
        build.measured(CORRUPTED, 50, "blur", level=1, total=100)
    )
    (table,) = run_tables(evaluation.run())
    rows = [" | ".join(map(plain, row)) for row in table.texts.to_numpy().tolist()]
    for expected in (
        "Clean | — | 98.1 % | 96.1–100.0 % | 981 of 1,000",
        "Attacked, ℓ∞ ε = 0.1 | fgsm | 90.5 %",
        "Certified, ℓ₂ ε = 0.5 | certified-box-l2 | 71.0 %",
        "Smoothed classifier, clean | noise_std 0.25 | 94.0 %",
        "Smoothed classifier, certified, ℓ₂ ε = 0.5 | holds with probability 0.999 an example | 70.0 %",
        "Blur | severity 1 | 50.0 %",
        "Under corruptions, mean | kinds and severities | 50.0 % | — | —",
        "Calibration error | 15 bins | 3.3 % | — | —",
    ):
        assert any(row.startswith(expected) for row in rows), expected


def test_export_tables_writes_files(write_run: WriteRun, tmp_path: Path) -> None:
    one, two = write_run("one"), write_run("two")
    files = export_tables([one, two], tmp_path / "new" / "tables")
    assert [file.name for file in files] == ["comparison.md", "comparison.tex"]
    assert files[0].read_text(encoding="utf-8").startswith("### Runs beside each other\n")
    assert files[1].read_text(encoding="utf-8").count(r"\begin{table}") == 2
    assert [file.name for file in export_tables([one], tmp_path)] == ["figures.md", "figures.tex"]


def test_export_tables_refuses_what_cannot_be_written(write_run: WriteRun, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no run folder"):
        export_tables([], tmp_path)
    with pytest.raises(RunFolderError, match="withstand evaluate"):
        export_tables([write_run(only={"train.csv"})], tmp_path)
    with pytest.raises(RunFolderError, match="withstand evaluate"):
        export_tables([write_run(name, only={"train.csv"}) for name in ("a", "b")], tmp_path)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(RunFolderError, match="Cannot make the folder"):
        export_tables([write_run("two")], file)


def test_comparison_tables_write_an_area_as_no_share(evaluated: Any) -> None:
    noisy = evaluated.but(noise=Noise("", 1)).plus(
        *(
            Measurement(
                measure, "unclipped", level=0.5, value=0.7316, lower=0.7, upper=0.8, correct=1, total=1000
            )
            for measure in (NOISE_ACCURACY, NOISE_AGREEMENT)
        )
    )
    (table,) = comparison_tables([noisy.run()])
    cells = {*table.texts.to_numpy().ravel(), *table.texts.columns}
    assert "0.732" in cells  # as the page writes it
    assert "73.2\N{NO-BREAK SPACE}%" in cells
