"""The page's section on randomised smoothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from withstand.reporting import report
from withstand.reporting.sections.smoothed_accuracy import section
from withstand.results.measurements import SMOOTHED_CERTIFIED


def view(evaluated: Any) -> Any:
    return section(evaluated.run())


def test_smoothed_curve_is_its_own(everything: Any, build: Any) -> None:
    (figure,) = view(everything).figures
    (trace,) = figure.plot["data"]
    assert trace["x"] == [0.0, 0.25, 0.5, 1.0]
    assert trace["y"] == [0.94, 0.85, 0.7, 0.31]
    assert trace["line"]["dash"] == "dot"  # certificates are solid
    assert not trace["marker"]["symbol"].endswith("-open")  # those of certificates are
    assert build.plain(trace["name"]) == "smoothed classifier, each example with probability 99.9 %"
    assert build.plain(trace["hovertext"][2]) == (
        "<b>smoothed classifier, each example with probability 99.9 %</b><br>ε = 0.5<br>"
        "certified with probability 99.9 % an example: 70.0 %<br>95 % interval 68.0–72.0 %"
    )
    assert figure.plot["layout"]["showlegend"] is True


def test_smoothed_curve_from_zero_has_no_second_start(everything: Any) -> None:
    rows = [
        replace(row, level=0.0) if row.measure == SMOOTHED_CERTIFIED and row.level == 0.25 else row
        for row in everything.rows
    ]
    (figure,) = view(replace(everything, rows=tuple(rows))).figures
    assert figure.plot["data"][0]["x"] == [0.0, 0.5, 1.0]


def test_smoothing_without_epsilons_has_no_figure(everything: Any) -> None:
    shown = view(everything.without(SMOOTHED_CERTIFIED))
    assert (shown.figures, shown.tables) == ([], [])
    assert ("Largest radius, ℓ₂", "0.9471") in shown.facts


def test_smoothing_shows_all_digits_of_rare_failures(everything: Any, build: Any) -> None:
    rare = everything.but(smoothing=replace(everything.results.smoothing, failure_probability=1e-5))
    assert "with probability 99.999 % an example" in build.plain(view(rare).tables[0].caption)


def test_smoothing_is_never_a_certificate_of_the_network(write_run: Any, certified: Any, build: Any) -> None:
    page = build.plain(
        report(write_run(evaluated=build.with_smoothing(certified))).read_text(encoding="utf-8")
    )
    section = page[page.index('id="run-smoothing"') :]
    section = section[: section.index("</section>")]
    assert "It holds with probability 99.9 % for each example, not for certain" in section
    assert "says nothing of the network without that noise" in section
    assert "correct on <b>94.0 %</b>" in section
    assert "abstains on 1.2 %, which counts as wrong" in section
    assert "smoothed" not in page[: page.index('id="run-smoothing"')]
