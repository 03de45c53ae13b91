"""The look of all figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from withstand.reporting.curves import Curve, accuracy_figure, attacked_curves
from withstand.reporting.figures import (
    COLOURS,
    DASHES,
    ON_DARK,
    axis,
    bars,
    chart,
    hover,
    logarithmic,
    look,
    reference,
    series,
    shares_between,
)
from withstand.reporting.history import Panel, Trace, training_figure
from withstand.reporting.section import Figure

# What is seen with all cones, and without the long, middle or short ones, of linear RGB: Machado et al., "A
# physiologically-based model for simulation of color vision deficiency", IEEE TVCG 15 (2009), severity 1.
SIGHT: dict[str, list[float]] = {
    "all": [1, 0, 0, 0, 1, 0, 0, 0, 1],
    "protan": [0.1523, 1.0526, -0.2049, 0.1145, 0.7863, 0.0992, -0.0039, -0.0481, 1.0520],
    "deutan": [0.3673, 0.8606, -0.2280, 0.2801, 0.6725, 0.0474, -0.0118, 0.0429, 0.9689],
    "tritan": [1.2555, -0.0767, -0.1788, -0.0784, 0.9308, 0.1476, 0.0047, 0.6914, 0.3039],
}
TO_CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
TO_OKLAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]
LUMINANCE = [0.2126, 0.7152, 0.0722]


def linear(colour: str) -> NDArray[np.float64]:
    values = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.asarray(np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4))


@pytest.mark.parametrize(("palette", "ground"), [(COLOURS, "#FFFFFF"), (ON_DARK, "#1A1E25")])
@pytest.mark.parametrize("sight", SIGHT)
def test_eight_colours_are_apart_for_every_sight(palette: tuple[str, ...], ground: str, sight: str) -> None:
    seen = [np.clip(np.array(SIGHT[sight]).reshape(3, 3) @ linear(colour), 0, 1) for colour in palette]
    places = [np.array(TO_OKLAB) @ np.cbrt(np.array(TO_CONES) @ colour) for colour in seen]
    apart = [np.linalg.norm(one - other) for at, one in enumerate(places) for other in places[:at]]
    assert len(palette) == 8
    assert min(apart) > 0.1  # of OKLab; Okabe and Ito's first six are 0.076 apart
    light = float(np.dot(LUMINANCE, linear(ground)))
    for colour in palette:
        low, high = sorted([light, float(np.dot(LUMINANCE, linear(colour)))])
        assert (high + 0.05) / (low + 0.05) > 2.1


def test_eight_series_differ_in_colour_and_dash_and_marker() -> None:
    looks = [look(index) for index in range(8)]
    for part, key in (("line", "color"), ("line", "dash"), ("marker", "symbol")):
        assert len({shown[part][key] for shown in looks}) == 8
    assert len(DASHES) == 8
    assert look(8) not in looks


def test_axis_of_shares_has_ticks_as_the_page_writes_them() -> None:
    for low, high in ((0.931, 0.974), (0.0, 1.0), (0.9, 0.9), (0.112, 0.934)):
        shown = shares_between(low, high)
        assert shown["range"][0] < low <= high < shown["range"][1]
        assert 1 <= len(shown["tickvals"]) == len(shown["ticktext"]) <= 10
        assert all(text.endswith("\N{NO-BREAK SPACE}%") for text in shown["ticktext"])


def test_logarithmic_axis_of_near_values_has_several_ticks() -> None:
    for values in ([1440.0, 1470.0], [3.0, 4.0], [1.0, 1000.0], [5.0, 5.0]):
        assert len(logarithmic(values)["tickvals"]) >= 3


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
