"""The page's section on randomised smoothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from withstand.reporting import report
from withstand.reporting.smoothing import view_smoothing
from withstand.types import RunFolderError

WriteRun = Callable[..., Path]


def view(measures: dict[str, Any], chance: float | None = 0.1) -> Any:
    return view_smoothing(measures["smoothing"], chance)


def words(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_its_curve_is_its_own(measures: dict[str, Any]) -> None:
    figure = view(measures).figure
    (trace,) = figure.plot["data"]
    assert trace["x"] == [0.0, 0.25, 0.5, 1.0]
    assert trace["y"] == [0.94, 0.85, 0.7, 0.31]
    assert trace["line"]["dash"] == "dot"  # certificates are solid
    assert not trace["marker"]["symbol"].endswith("-open")  # those of certificates are
    assert words(trace["name"]) == "smoothed classifier, each example with probability 99.9 %"
    assert words(trace["text"][2]).startswith(
        "<b>smoothed classifier</b><br>epsilon 0.5<br>certified with probability 99.9 % an example: 70.0 %"
    )
    assert figure.plot["layout"]["showlegend"] is True


def test_a_curve_from_zero_has_no_second_start(measures: dict[str, Any]) -> None:
    measures["smoothing"]["curve"][1]["epsilon"] = 0.0
    assert view(measures).figure.plot["data"][0]["x"] == [0.0, 0.5, 1.0]


def test_without_epsilons_there_is_no_figure(measures: dict[str, Any]) -> None:
    measures["smoothing"]["curve"] = []
    shown = view(measures)
    assert (shown.figure, shown.points) == (None, [])
    assert ("Largest radius, ℓ2", "0.9471") in shown.facts


def test_rare_failures_keep_their_digits(measures: dict[str, Any]) -> None:
    measures["smoothing"]["failure_probability"] = 1e-5
    assert words(view(measures).probability) == "99.999 %"


def test_it_is_never_a_certificate_of_the_network(
    write_run: WriteRun, measures: dict[str, Any], certified_metrics: dict[str, Any]
) -> None:
    both = measures | {name: certified_metrics[name] for name in ("attacks", "certificates")}
    page = words(report(write_run(metrics=both)).read_text(encoding="utf-8"))
    section = page[page.index('id="run-smoothing"') :]
    section = section[: section.index("</section>")]
    assert "It holds with probability 99.9 % for each example, not for certain" in section
    assert "says nothing of the network without that noise" in section
    assert "right on <b>94.0 %</b>" in section
    assert "abstains on 1.2 %, which counts as wrong" in section
    assert "smoothed" not in page[: page.index('id="run-smoothing"')]


@pytest.mark.parametrize("content", [{}, {"smoothing": None}])
def test_without_it_there_is_no_section(
    write_run: WriteRun, metrics: dict[str, Any], content: dict[str, Any]
) -> None:
    page = report(write_run(metrics=metrics | content)).read_text(encoding="utf-8")
    assert "run-smoothing" not in page


def test_damage_is_named(write_run: WriteRun, measures: dict[str, Any]) -> None:
    measures["smoothing"]["failure_probability"] = 2
    with pytest.raises(RunFolderError, match=r"smoothing\.failure_probability must be between 0 and 1"):
        report(write_run(metrics=measures))
