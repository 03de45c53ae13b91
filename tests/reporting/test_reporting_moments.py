"""The page's section on analytic moments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from withstand.reporting import report
from withstand.reporting.moments import view_moments
from withstand.reporting.moments_schema import Moments
from withstand.types import RunFolderError

WriteRun = Callable[..., Path]
APART = {"mean_error": 0.5, "std_error": 0.25, "std_ratio": 0.75}
NOTHING = dict.fromkeys(
    ("mean_error", "std_ratio", "seconds", "matching_samples", "speed_up", "full_speed_up")
)


def level(std: float) -> dict[str, Any]:
    diagonal = {
        "name": "diagonal",
        "reason": None,
        "mean_error": 0.25,
        "std_ratio": {"low": 0.5, "median": 0.75, "high": 0.9},
        "seconds": 0.002,
        "matching_samples": 16.0,
        "speed_up": 4.0,
        "full_speed_up": 2500.4,
        "points": [[1.0, 0.75], [2.0, 1.5], [3.0, 0.0]],
    }
    mean_only = diagonal | {"name": "first-activation", "std_ratio": None, "points": []}
    full = NOTHING | {"name": "full", "reason": "Not tried: 25,088 <wide>.", "points": []}
    own = {"mean_error": 1e-7, "std_error": None, "std_ratio": 1.0}
    form = {"accumulated": APART, "own": own, "samples": 1234.5}
    layers = [{"operation": "Conv2d", "count": 2, "forms": {"diagonal": form}}]
    return {
        "noise_std": std,
        "sample_seconds": 5e-4,
        "methods": [mean_only, diagonal, full],
        "layers": layers,
    }


def found(*stds: float) -> dict[str, Any]:
    levels = [level(std) for std in stds]
    return {
        "num_examples": 3,
        "num_samples": 1000,
        "standard_error": 1000**-0.5,
        "description": "How",
        "levels": levels,
    }


def view(*stds: float) -> Any:
    return view_moments(cast("Moments", found(*stds)))


def test_rows_hold_the_numbers_and_dashes() -> None:
    shown = view(0.2, 0.1)
    first, diagonal, full, *_ = shown.methods
    assert (first.noise_std, first.name, first.numbers[1]) == ("0.1", "first-activation", "—")
    assert [*diagonal.numbers] == ["0.25", "0.750", "0.500–0.900", "2\xa0ms", "16", "4", "2,500"]
    assert full.reason == "Not tried: 25,088 <wide>."
    assert shown.reasons == [("full", "Not tried: 25,088 <wide>.")]
    assert [each.noise_std for each in shown.layers] == ["0.2", "0.1"]
    (row,) = shown.layers[0].rows
    assert (row.operation, row.form) == ("Conv2d × 2", "diagonal")
    assert [*row.numbers] == ["0.5", "<\xa00.0001", "0.25", "—", "0.75", "1", "1,234"]
    assert (shown.num_samples, shown.sample) == ("1,000", "0.5\xa0ms")


def test_the_figure_has_one_colour_a_form_and_the_line_of_equals() -> None:
    figure = view(0.1, 0.2).figure
    equal, diagonal = figure.plot["data"]
    assert equal["x"] == equal["y"]
    assert diagonal["x"] == [1.0, 2.0, 1.0, 2.0]  # what is 0 has no place on a logarithmic axis
    assert diagonal["y"] == [0.75, 1.5, 0.75, 1.5]
    assert figure.plot["layout"]["xaxis"]["type"] == "log"


def test_without_deviations_there_is_no_figure() -> None:
    content = found(0.1)
    content["levels"][0]["methods"] = content["levels"][0]["methods"][:1]
    shown = view_moments(cast("Moments", content))
    assert shown is not None
    assert shown.figure is None
    assert view() is None


def test_the_page_has_the_section(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    text = report(write_run(metrics=metrics | {"moments": found(0.1, 0.2)})).read_text(encoding="utf-8")
    assert ">Analytic moments under noise</h2>" in text
    assert "25,088 &lt;wide&gt;" in text
    assert "not tried" in text
    assert "Layers at noise_std 0.2" in text
    assert "The other levels of noise" in text


@pytest.mark.parametrize("content", [{}, {"moments": None}])
def test_without_moments_there_is_no_section(
    write_run: WriteRun, metrics: dict[str, Any], content: dict[str, Any]
) -> None:
    text = report(write_run(metrics=metrics | content)).read_text(encoding="utf-8")
    assert "Analytic moments" not in text


def test_damaged_moments_are_named(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    broken = found(0.1)
    broken["levels"][0]["methods"][1]["mean_error"] = "small"
    with pytest.raises(RunFolderError, match=r"moments\.levels\[0\]\.methods\[1\]\.mean_error must be"):
        report(write_run(metrics=metrics | {"moments": broken}))
