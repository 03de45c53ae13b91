"""The look of all figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from withstand.reporting.curves import Curve, accuracy_figure, attacked_curves
from withstand.reporting.figures import axis, bars, chart, hover, reference, series
from withstand.reporting.history import Panel, Trace, training_figure
from withstand.reporting.section import Figure


def panel(*traces: Trace, title: str = "Loss") -> Panel:
    return Panel(title, "caption", traces, is_share=False)


def test_figures_leave_ground_and_width_to_the_page(evaluated: Any) -> None:
    accuracy = accuracy_figure(attacked_curves(evaluated.run(), "inf"), "inf", 0.1)
    others = [series("a", [1], [2], 0), bars("b", [1], [2], "#0072B2", ["c"]), reference("d", [0, 1], [0, 1])]
    mixed = chart(others, "t", "c", x=axis("x"), y=axis("y"), height=300)
    for figure in (accuracy, mixed, training_figure(panel(Trace("loss", [1.0], [2.0], {})))):
        layout = figure.plot["layout"]["template"]["layout"]
        assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0,0,0,0)"
        assert layout["autosize"] is True
        assert not {"width", "paper_bgcolor"} & set(figure.plot["layout"])
        assert all("color" in trace["marker"] for trace in figure.plot["data"])


def test_figures_grow_with_a_legend_of_many_series() -> None:
    def height(number: int) -> int:
        traces = [series(str(index), [1], [2], index) for index in range(number)]
        hidden = series("hidden", [1], [2], 0, showlegend=False)
        return chart([*traces, hidden], "", "", x=axis("x"), y=axis("y"), height=300).height

    assert [height(number) for number in (1, 2, 3, 5)] == [300, 300, 322, 366]


def of_curve(name: str, evaluated: Any) -> Figure:
    points = attacked_curves(evaluated.run(), "inf")[0].points
    return accuracy_figure([Curve(name, points)], name, 0.1)


def of_training(name: str, _: Any) -> Figure:
    return training_figure(panel(Trace(name, [1.0, 2.0], [2.0, 1.0], {1: name})))


def of_bars(name: str, _: Any) -> Figure:
    drawn = bars(name, [1], [2], "#0072B2", [hover(name, name)])
    return chart([drawn], "t", "c", x=axis(name), y=axis(name), height=300)


@pytest.mark.parametrize("drawn", [of_curve, of_training, of_bars])
def test_figures_escape_names(drawn: Callable[[str, Any], Figure], evaluated: Any) -> None:
    figure = drawn("<a href='x'>&", evaluated)
    assert "<a" not in str(figure.plot)
    assert "&lt;a" in str(figure.plot)


def test_training_figure_marks_events() -> None:
    drawn = Trace("loss", [1.0, 2.0, 3.0], [2.0, 2.3, None], {1: "Epoch 2: collapsed", 2: "Epoch 3: x"})
    line, marks = training_figure(panel(drawn)).plot["data"]
    assert line["y"] == [2.0, 2.3, None]
    assert "Epoch 2: collapsed" in line["hovertext"][1]
    assert "Epoch" not in line["hovertext"][0]
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
