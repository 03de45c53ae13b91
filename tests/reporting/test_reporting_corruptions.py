"""The page's section on corrupted images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from withstand.reporting import report
from withstand.reporting.sections import noise_accuracy as noise
from withstand.results.measurements import CORRUPTED


def view(evaluated: Any) -> Any:
    return noise.corruptions(evaluated.run())


def test_corruptions_have_a_curve_a_kind_and_their_mean(everything: Any, build: Any) -> None:
    (figure,) = view(everything).figures
    mean, blur, rotation = figure.plot["data"]
    assert [trace["name"] for trace in (mean, blur, rotation)] == [
        "mean over kinds",
        "Gaussian blur",
        "Rotation",
    ]
    assert blur["x"] == [1, 2, 3, 4, 5]
    assert blur["y"] == pytest.approx([0.92, 0.86, 0.8, 0.74, 0.68])
    assert mean["y"] == pytest.approx([0.89, 0.8, 0.71, 0.62, 0.53])
    assert blur["line"]["dash"] != rotation["line"]["dash"]
    assert build.plain(blur["hovertext"][1]) == (
        "<b>Gaussian blur</b><br>severity 2, standard deviation, pixels: 0.8<br>accuracy 86.0 %<br>"
        "95 % interval 84.0\N{EN DASH}88.0 %"
    )
    assert build.plain(mean["hovertext"][1]) == "<b>mean over kinds</b><br>severity 2: 80.0 %"
    assert figure.plot["layout"]["shapes"][0]["y0"] == 0.1


def test_severities_that_were_left_out_are_not_measured(everything: Any, build: Any) -> None:
    measured = {"gaussian-blur": (2, 4), "rotation": (4, 5)}
    rows = [row for row in everything.rows if row.measure != CORRUPTED or int(row.level) in measured[row.by]]
    shown = view(replace(everything, rows=tuple(rows)))
    (table,) = shown.tables
    assert build.texts(table.header) == ["Kind", "Severity 2", "Severity 4", "Severity 5", "Mean"]
    assert [build.texts(row) for row in table.rows] == [
        [
            "Gaussian blur standard deviation, pixels",
            "86.0 % at 0.8",
            "74.0 % at 1.6",
            "not measured",
            "80.0 %",
        ],
        ["Rotation degrees", "not measured", "50.0 % at 1.6", "38.0 % at 2", "44.0 %"],
        ["Mean over kinds", "86.0 %", "62.0 %", "38.0 %", "62.0 %"],
    ]
    assert shown.figures[0].plot["data"][2]["x"] == [4, 5]
    assert view(everything.without(CORRUPTED)) is None


def test_corruptions_are_on_the_page(write_run: Any, everything: Any, build: Any) -> None:
    page = build.plain(report(write_run(evaluated=everything)).read_text(encoding="utf-8"))
    assert ">Corruptions</h2>" in page
    assert "the mean accuracy is <b>71.0 %</b>; on clean images it is 98.1 %" in page
    assert '<th scope="row">Rotation <small>degrees</small></th>' in page
    assert '--share: 0.860"><b>86.0 %</b> <small>at 0.8</small>' in page
    assert ">Noise and corruptions</button>" in page
    assert "How it was corrupted." in page
