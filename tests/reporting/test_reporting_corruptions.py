"""The page's section on corrupted images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from withstand.reporting import report
from withstand.reporting.corruptions import view_corruptions
from withstand.types import RunFolderError

WriteRun = Callable[..., Path]


def view(measures: dict[str, Any], chance: float | None = 0.1) -> Any:
    return view_corruptions(measures["corruptions"], measures["clean"], chance)


def words(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_one_curve_a_kind_and_their_mean(measures: dict[str, Any]) -> None:
    figure = view(measures).figure
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
    assert words(blur["text"][1]) == (
        "<b>Gaussian blur</b><br>severity 2, standard deviation, pixels: 0.8<br>accuracy 86.0 %<br>"
        "95 % interval 84.0\N{EN DASH}88.0 %"
    )
    assert figure.plot["layout"]["shapes"][0]["y0"] == 0.1
    assert "shapes" not in view(measures, None).figure.plot["layout"]


def test_severities_that_were_left_out_are_empty(measures: dict[str, Any]) -> None:
    measures["corruptions"]["kinds"][0]["levels"] = measures["corruptions"]["kinds"][0]["levels"][1::2]
    measures["corruptions"]["kinds"][1]["levels"] = measures["corruptions"]["kinds"][1]["levels"][::-1][:2]
    shown = view(measures)
    assert shown.severities == [2, 4, 5]
    assert [[level is not None for level in row.levels] for row in shown.rows] == [
        [True, True, False],
        [False, True, True],
    ]
    assert shown.rows[0].mean == pytest.approx(0.8)
    assert shown.means == pytest.approx([0.86, 0.62, 0.38])
    assert shown.figure.plot["data"][2]["x"] == [4, 5]


def test_the_page_has_the_section(write_run: WriteRun, measures: dict[str, Any]) -> None:
    page = words(report(write_run(metrics=measures)).read_text(encoding="utf-8"))
    assert ">Corruptions</h2>" in page
    assert "the mean accuracy is <b>71.0 %</b>; on clean images it is 98.1 %" in page
    assert '<th scope="row">Rotation <small>degrees</small></th>' in page
    assert 'style="--share: 0.860"><b>86.0 %</b> <small>at 0.8</small>' in page
    assert ">Noise and corruptions</button>" in page
    assert "How it was corrupted." in page


@pytest.mark.parametrize("content", [{}, {"corruptions": None}])
def test_without_them_there_is_no_section(
    write_run: WriteRun, metrics: dict[str, Any], content: dict[str, Any]
) -> None:
    page = report(write_run(metrics=metrics | content)).read_text(encoding="utf-8")
    assert ">Corruptions<" not in page


def test_without_levels_there_is_no_section(measures: dict[str, Any]) -> None:
    for kind in measures["corruptions"]["kinds"]:
        kind["levels"] = []
    assert view(measures) is None


def test_damage_is_named(write_run: WriteRun, measures: dict[str, Any]) -> None:
    measures["corruptions"]["kinds"][0]["levels"][0]["severity"] = 6
    fault = r"corruptions\.kinds\[0\]\.levels\[0\]\.severity must be between 1 and 5"
    with pytest.raises(RunFolderError, match=fault):
        report(write_run(metrics=measures))
