"""The page's section on calibration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from withstand.reporting import report
from withstand.reporting.calibration import view_calibration
from withstand.types import RunFolderError

WriteRun = Callable[..., Path]


def view(measures: dict[str, Any]) -> Any:
    return view_calibration(measures["calibration"])


def words(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_the_diagram_has_the_bins_that_hold_examples(measures: dict[str, Any]) -> None:
    reliability, counts = view(measures).figures
    diagonal, points = reliability.plot["data"]
    assert (diagonal["x"], diagonal["y"]) == ([0, 1], [0, 1])
    assert points["x"] == [0.82, 0.9, 0.98]
    assert points["y"] == [0.7, 0.85, 0.97]
    assert points["marker"]["size"] == pytest.approx([6 + 12 * (1 / 6) ** 0.5, 6 + 12 * 0.5**0.5, 18])
    assert words(points["text"][0]) == (
        "<b>confidence 0.8 to 0.867</b><br>100 examples<br>mean confidence 82.0 %<br>accuracy 70.0 %"
    )
    (bars,) = counts.plot["data"]
    assert bars["y"] == [0] * 12 + [100, 300, 600]
    assert bars["x"][0] == pytest.approx(1 / 30)


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [
        (0.0, "the network is surer than it is right, by 3.3 points."),
        (0.1, "the network is less sure than it is right, by 6.7 points."),
        (0.033, "agree within half a point."),
    ],
)
def test_the_verdict_says_in_which_direction(measures: dict[str, Any], shift: float, verdict: str) -> None:
    for each in measures["calibration"]["bins"]:
        if each["accuracy"] is not None:
            each["accuracy"] += shift
    assert view(measures).verdict.endswith(verdict)


def test_the_table_has_the_gap_with_its_sign(measures: dict[str, Any]) -> None:
    measures["calibration"]["bins"][14]["accuracy"] = 1.0
    rows = view(measures).rows
    assert [words(row.gap) for row in rows] == ["+12.0 points", "+5.0 points", "\N{MINUS SIGN}2.0 points"]


def test_the_page_has_the_section(write_run: WriteRun, measures: dict[str, Any]) -> None:
    page = report(write_run(metrics=measures)).read_text(encoding="utf-8")
    assert ">Calibration</h2>" in page
    assert "calibration error on clean images is <b>0.0330</b> over 15 bins" in page


def test_without_examples_there_is_none(measures: dict[str, Any]) -> None:
    for each in measures["calibration"]["bins"]:
        each["count"] = 0
    assert view(measures) is None


@pytest.mark.parametrize("content", [{}, {"calibration": None}])
def test_without_it_there_is_no_section(
    write_run: WriteRun, metrics: dict[str, Any], content: dict[str, Any]
) -> None:
    page = report(write_run(metrics=metrics | content)).read_text(encoding="utf-8")
    assert ">Calibration<" not in page


def test_damage_is_named(write_run: WriteRun, measures: dict[str, Any]) -> None:
    measures["calibration"]["bins"][3]["confidence"] = 1.2
    with pytest.raises(RunFolderError, match=r"calibration\.bins\[3\]\.confidence must be between 0 and 1"):
        report(write_run(metrics=measures))
