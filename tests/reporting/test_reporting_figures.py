from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from withstand.reporting.certified import certified_curves
from withstand.reporting.figures import accuracy_figure, training_figure
from withstand.reporting.history import Panel, Trace
from withstand.reporting.schema import Metrics
from withstand.reporting.summary import Curve, curves


@pytest.fixture
def two_curves(metrics: dict[str, Any]) -> list[Curve]:
    return curves(cast("Metrics", metrics), "inf")


def panel(*traces: Trace, title: str = "Loss") -> Panel:
    return Panel(title, "caption", traces, is_share=False)


def test_accuracy_figure_holds_values_intervals_and_chance(two_curves: list[Curve]) -> None:
    plot = accuracy_figure(two_curves, "inf", 0.1).plot
    first = plot["data"][0]
    assert first["x"] == [0.0, 0.1, 0.3]
    assert first["y"] == [0.981, 0.907, 0.402]
    assert first["error_y"]["array"] == pytest.approx([0.019, 0.02, 0.02])
    assert first["error_y"]["arrayminus"] == pytest.approx([0.02, 0.02, 0.02])
    assert "95 % interval 38.2" in first["text"][2]
    assert plot["layout"]["shapes"][0]["y0"] == 0.1
    assert plot["layout"]["shapes"][0]["line"]["dash"] == "dot"
    assert plot["layout"]["annotations"][0]["text"].startswith("chance, 10.0")


def test_no_chance_line_where_there_is_no_chance_level(two_curves: list[Curve]) -> None:
    assert "shapes" not in accuracy_figure(two_curves, "inf", None).plot["layout"]


def test_series_differ_without_colour(two_curves: list[Curve]) -> None:
    many = [Curve(str(number), two_curves[0].points, two_curves[0].attacks) for number in range(20)]
    data = accuracy_figure(many, "inf", None).plot["data"]
    looks = {(each["line"]["dash"], each["marker"]["symbol"]) for each in data}
    assert len(looks) == len(data)


def test_certified_curves_are_heavy_and_open(certified_metrics: dict[str, Any]) -> None:
    measured = cast("Metrics", certified_metrics)
    radii = {"radius-l2": [0.0, 0.4, 0.6, 1.75]}
    drawn = [*curves(measured, "2"), *certified_curves(measured, "2", radii)]
    figure = accuracy_figure(drawn, "2", 0.1)
    attacked, line, points, box = figure.plot["data"]
    assert (attacked["name"], line["name"], box["name"]) == (
        "pgd-20-l2",
        "certified (best)",
        "certified (box)",
    )
    for certified in (line, points, box):
        assert certified["line"]["width"] > attacked["line"]["width"]
        assert certified["line"]["dash"] == "solid"
        assert certified["marker"]["symbol"].endswith("-open")
    assert (line["mode"], line["line"]["shape"], points["mode"]) == ("lines", "vh", "markers")
    assert line["x"] == [0.0, 0.4, 0.6, 1.75, 1.75]
    assert line["y"] == [0.75, 0.75, 0.5, 0.25, 0.0]
    assert points["showlegend"] is False
    assert points["y"] == [0.981, 0.7, 0.4, 0.09]
    assert "certified" in figure.caption
    assert "certified" not in accuracy_figure(curves(measured, "2"), "2", 0.1).caption


def test_a_single_certified_curve_is_shaded(certified_metrics: dict[str, Any]) -> None:
    measured = cast("Metrics", certified_metrics)
    (one,) = certified_curves(measured, "inf", {})
    assert accuracy_figure([one], "inf", None).plot["data"][0]["fill"] == "tozeroy"
    several = accuracy_figure(certified_curves(measured, "2", {}), "2", None)
    assert not any("fill" in each for each in several.plot["data"])


def test_curves_of_one_series_share_their_colour(two_curves: list[Curve]) -> None:
    attacked = replace(two_curves[0], series=1)
    certified = replace(attacked, is_certified=True)
    first, second = accuracy_figure([attacked, certified], "inf", None).plot["data"]
    assert first["line"]["color"] == second["line"]["color"]
    assert first["line"]["dash"] != second["line"]["dash"]


def test_pixel_epsilons_are_ticked_as_such(metrics: dict[str, Any]) -> None:
    for attack in metrics["attacks"]:
        for point, epsilon in zip(attack["curve"], (4 / 255, 8 / 255), strict=True):
            point["epsilon"] = epsilon
    figure = accuracy_figure(curves(cast("Metrics", metrics), "inf"), "inf", None)
    assert figure.plot["layout"]["xaxis"]["ticktext"] == ["0", "4/255", "8/255"]


def test_figures_leave_ground_and_width_to_the_page(two_curves: list[Curve]) -> None:
    drawn = Trace("loss", [1.0], [2.0], {})
    for figure in (accuracy_figure(two_curves, "inf", 0.1), training_figure(panel(drawn))):
        layout = figure.plot["layout"]
        assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0,0,0,0)"
        assert layout["autosize"] is True
        assert "width" not in layout
        assert all("color" in trace["marker"] for trace in figure.plot["data"])


def test_names_are_escaped(two_curves: list[Curve]) -> None:
    name = "<a href='x'>&"
    curve = Curve(name, two_curves[0].points, [name] * 3)
    drawn = Trace(name, [1.0, 2.0], [2.0, 1.0], {1: name})
    for figure in (accuracy_figure([curve], name, 0.1), training_figure(panel(drawn))):
        assert "<a" not in str(figure.plot)
        assert "&lt;a" in str(figure.plot)


def test_training_figure_marks_events() -> None:
    drawn = Trace("loss", [1.0, 2.0, 3.0], [2.0, 2.3, None], {1: "Epoch 2: collapsed", 2: "Epoch 3: x"})
    line, marks = training_figure(panel(drawn)).plot["data"]
    assert line["y"] == [2.0, 2.3, None]
    assert "Epoch 2: collapsed" in line["text"][1]
    assert "Epoch" not in line["text"][0]
    assert (marks["x"], marks["y"]) == ([2.0], [2.3])


def test_legend_is_left_out_where_the_title_says_it() -> None:
    drawn = Trace("loss", [1.0], [2.0], {})
    assert training_figure(panel(drawn)).plot["layout"]["showlegend"] is False
    assert training_figure(panel(drawn, title="Other")).plot["layout"]["showlegend"] is True
    assert training_figure(panel(drawn, drawn)).plot["layout"]["showlegend"] is True


def test_axis_reaches_below_zero_where_values_do() -> None:
    above, below = Trace("a", [1.0], [2.0], {}), Trace("b", [1.0], [-2.0], {})
    assert training_figure(panel(above)).plot["layout"]["yaxis"]["rangemode"] == "tozero"
    assert "rangemode" not in training_figure(panel(below)).plot["layout"]["yaxis"]
