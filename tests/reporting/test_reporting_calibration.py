"""The page's section on calibration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from withstand.reporting.sections import confidence


def view(evaluated: Any) -> Any:
    return confidence.calibration(evaluated.run())


def test_reliability_has_the_bins_that_hold_examples(everything: Any, build: Any) -> None:
    reliability, counts = view(everything).figures
    diagonal, points = reliability.plot["data"]
    assert (diagonal["x"], diagonal["y"]) == ([0, 1], [0, 1])
    assert points["x"] == [0.82, 0.9, 0.98]
    assert points["y"] == [0.7, 0.85, 0.97]
    assert points["marker"]["size"] == pytest.approx([6 + 12 * (1 / 6) ** 0.5, 6 + 12 * 0.5**0.5, 18])
    assert build.plain(points["hovertext"][0]) == (
        "<b>confidence 0.8 to 0.867</b><br>100 examples<br>mean confidence 82.0 %<br>accuracy 70.0 %"
    )
    (bars,) = counts.plot["data"]
    assert bars["y"] == [0] * 12 + [100, 300, 600]
    assert bars["x"][0] == pytest.approx(1 / 30)


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [
        (0.0, "the network is surer than it is correct, by 3.3 points."),
        (0.1, "the network is less sure than it is correct, by 6.7 points."),
        (0.033, "agree within half a point."),
    ],
)
def test_calibration_verdict_says_in_which_direction(everything: Any, shift: float, verdict: str) -> None:
    bins = [
        replace(bin_result, accuracy=None if bin_result.accuracy is None else bin_result.accuracy + shift)
        for bin_result in everything.results.calibration
    ]
    (prose,) = view(everything.but(calibration=bins)).prose
    assert prose.text.startswith(
        "The expected calibration error on clean images is <b>0.0330</b> over 15 bins"
    )
    assert prose.text.endswith(verdict)


def test_calibration_table_has_the_gap_with_its_sign(everything: Any, build: Any) -> None:
    *bins, last = everything.results.calibration
    shown = view(everything.but(calibration=[*bins, replace(last, accuracy=1.0)]))
    assert [build.texts(row) for row in shown.tables[0].rows] == [
        ["0.8 to 0.867", "100", "0.82", "70.0 %", "+12.0 points"],
        ["0.867 to 0.933", "300", "0.9", "85.0 %", "+5.0 points"],
        ["0.933 to 1", "600", "0.98", "100.0 %", "\N{MINUS SIGN}2.0 points"],
    ]
    assert shown.tables[0].is_folded


def test_calibration_without_examples_is_no_section(everything: Any) -> None:
    bins = [replace(bin_result, count=0) for bin_result in everything.results.calibration]
    assert view(everything.but(calibration=bins)) is None
