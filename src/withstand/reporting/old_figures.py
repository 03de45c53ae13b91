"""The figures of the page, as plotly figures whose colours the page's script fits to its theme.

Series differ in colour (Okabe and Ito's palette), dash and marker, so that none is told by
colour alone. Plotly reads some HTML in texts, so whatever a user named is escaped here.
"""

from __future__ import annotations

import html
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from withstand.reporting.axes import logarithmic
from withstand.reporting.old_history import Panel, Trace
from withstand.reporting.summary import Curve
from withstand.reporting.old_wording import cell, epsilon_text, interval, norm_text, percent

__all__ = [
    "COLOURS",
    "GREY",
    "SHARES",
    "Figure",
    "accuracy_figure",
    "axis",
    "draw_chance",
    "finished",
    "layout",
    "legend_height",
    "series_style",
    "training_figure",
]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "star", "triangle-down", "cross")
# Reads on white and on near-black alike.
GREY = "#8a8f98"
_SHADE = "rgba(138,143,152,0.16)"
_MANY_POINTS = 60
_MOST_TICKS = 7
_HOVER_WIDTH = 36
_ABOUT_CERTIFIED = (
    " Heavy lines with open markers are certified: proven for that share of the examples. Between them and "
    "an attacked curve lies what is neither proven nor refuted."
)
_WITHOUT_RADII = (
    " Where radii were not computed, a certified line says what follows from the next larger epsilon: at "
    "least so many are certified."
)
SHARES = {"tickformat": ".0%", "range": [-0.02, 1.04]}
"""An axis of shares, from 0 to 1."""
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


@dataclass(frozen=True)
class Figure:
    """A figure ready for the page.

    Attributes:
        title: Its heading.
        caption: What it shows, for those who see it and those who do not.
        plot: ``data`` and ``layout`` of plotly, as plain JSON values.
        height: In CSS pixels.
    """

    title: str
    caption: str
    plot: dict[str, Any]
    height: int


def accuracy_figure(curves: Sequence[Curve], norm: str, chance: float | None) -> Figure:
    """Accuracy against epsilon, with each point's interval as an error bar.

    Args:
        curves: At least one, each from epsilon 0 on.
        norm: The norm that epsilon is measured in.
        chance: The accuracy of guessing, drawn as a dotted line; None draws none.
    """
    sign = norm_text(norm)
    x_title = f"epsilon ({html.escape(sign)}, images in [0, 1])"
    certified = [curve for curve in curves if curve.is_certified]
    figure = go.Figure(
        [
            trace
            for place, curve in enumerate(curves)
            for trace in _accuracy_traces(
                curve, place if curve.series is None else curve.series, is_filled=certified == [curve]
            )
        ],
        layout(axis(x_title) | _epsilon_ticks(curves), axis("accuracy") | SHARES),
    )
    draw_chance(figure, chance)
    caption = f"Accuracy against epsilon in {sign}. Bars are 95 % intervals; epsilon 0 is clean accuracy."
    if certified:
        caption += _ABOUT_CERTIFIED
    if any(not curve.steps for curve in certified):
        caption += _WITHOUT_RADII
    return finished(figure, f"Accuracy against epsilon, {sign}", caption, 400 + legend_height(len(curves)))


def draw_chance(figure: go.Figure, chance: float | None) -> None:
    """Draws the accuracy of guessing as a dotted line; None draws none."""
    if chance is not None:
        figure.add_hline(
            y=chance,
            line={"color": GREY, "dash": "dot", "width": 1.5},
            annotation_text=f"chance, {percent(chance)}",
            annotation_position="bottom right",
        )


def _epsilon_ticks(curves: Sequence[Curve]) -> dict[str, Any]:
    """Ticks at the epsilons measured, where they are few and written as shares of 255."""
    epsilons = sorted({point["epsilon"] for curve in curves for point in curve.points})
    texts = [epsilon_text(epsilon) for epsilon in epsilons]
    if len(epsilons) > _MOST_TICKS or not any("/" in text for text in texts):
        return {}
    return {"tickmode": "array", "tickvals": epsilons, "ticktext": texts}


def _accuracy_traces(curve: Curve, index: int, *, is_filled: bool) -> list[go.Scatter]:
    """The measured points and the line through them, which radii make a line of its own."""
    look = _certified_style(index) if curve.is_certified else series_style(index, "lines+markers")
    fill = {"fill": "tozeroy", "fillcolor": _SHADE} if is_filled else {}
    if not curve.steps and curve.is_certified:  # what is proven at an epsilon is proven at any smaller one
        look |= {"line": look["line"] | {"shape": "vh"}}
    if not curve.steps:
        return [_points_trace(curve, look | fill)]
    line = go.Scatter(
        name=html.escape(curve.name),
        legendgroup=curve.name,
        x=[epsilon for epsilon, _ in curve.steps],
        y=[share for _, share in curve.steps],
        hoverinfo="skip",
        **look | fill | {"mode": "lines", "line": look["line"] | {"shape": "vh"}},
    )
    return [
        line,
        _points_trace(curve, look | {"mode": "markers", "legendgroup": curve.name, "showlegend": False}),
    ]


def _points_trace(curve: Curve, look: dict[str, Any]) -> go.Scatter:
    points = curve.points
    return go.Scatter(
        name=html.escape(curve.name),
        x=[point["epsilon"] for point in points],
        y=[point["accuracy"] for point in points],
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [point["upper"] - point["accuracy"] for point in points],
            "arrayminus": [point["accuracy"] - point["lower"] for point in points],
            "thickness": 1.5,
            "width": 5,
        },
        text=[
            f"<b>{html.escape(curve.name)}</b><br>epsilon {epsilon_text(point['epsilon'])}, "
            f"{html.escape(attack)}<br>accuracy {percent(point['accuracy'], point['total'])}<br>"
            f"95 % interval {interval(point)}"
            for point, attack in zip(points, curve.attacks, strict=True)
        ],
        hovertemplate="%{text}<extra></extra>",
        **look,
    )


def training_figure(panel: Panel) -> Figure:
    """Curves over the epochs done, with collapsed epochs and notes marked on them."""
    traces = []
    for place, trace in enumerate(panel.traces):
        index = place if trace.series is None else trace.series
        traces.append(_training_trace(trace, index))
        if trace.marks:
            traces.append(_marks_trace(trace, index))
    num_series = len(panel.traces)
    says_title = num_series == 1 and panel.traces[0].name == panel.title.lower()
    positive = {"rangemode": "tozero"} if _smallest(panel) >= 0 else {}
    y_axis = axis(panel.unit) | (SHARES if panel.is_share else _logarithmic(panel) or positive)
    shape = layout(axis("epochs done"), y_axis, showlegend=not says_title)
    return finished(go.Figure(traces, shape), panel.title, panel.caption, 280 + legend_height(num_series))


def _logarithmic(panel: Panel) -> dict[str, Any]:
    return logarithmic(_values(panel)) if panel.is_logarithmic else {}


def _smallest(panel: Panel) -> float:
    return min(_values(panel), default=0.0)


def _values(panel: Panel) -> list[float]:
    return [value for trace in panel.traces for value in trace.values if value is not None]


def _training_trace(trace: Trace, index: int) -> go.Scatter:
    mode = "lines+markers" if len(trace.progress) <= _MANY_POINTS else "lines"
    return go.Scatter(
        name=html.escape(trace.name),
        legendgroup=str(index),
        x=list(trace.progress),
        y=list(trace.values),
        text=[_hover_text(trace, row) for row in range(len(trace.values))],
        hovertemplate="%{text}<extra></extra>",
        **series_style(index, mode),
    )


def _hover_text(trace: Trace, row: int) -> str:
    lines = [f"{cell(trace.progress[row])} epochs done: {cell(trace.values[row])}"]
    lines += textwrap.wrap(trace.marks.get(row, ""), _HOVER_WIDTH)
    return "<br>".join([f"<b>{html.escape(trace.name)}</b>", *map(html.escape, lines)])


def _marks_trace(trace: Trace, index: int) -> go.Scatter:
    rows = [row for row in trace.marks if trace.values[row] is not None]
    return go.Scatter(
        legendgroup=str(index),
        showlegend=False,
        mode="markers",
        x=[trace.progress[row] for row in rows],
        y=[trace.values[row] for row in rows],
        hoverinfo="skip",
        marker={"symbol": "circle-x-open", "size": 15, "color": COLOURS[index % len(COLOURS)]}
        | {"line": {"width": 2}},
    )


def series_style(index: int, mode: str) -> dict[str, Any]:
    """Colour, dash and marker of the series of a number, told apart without colour too."""
    colour = COLOURS[index % len(COLOURS)]
    return {
        "mode": mode,
        "connectgaps": True,
        "cliponaxis": False,
        "line": {"color": colour, "width": 2.2, "dash": _DASHES[index % len(_DASHES)]},
        "marker": {"color": colour, "symbol": _MARKERS[index % len(_MARKERS)], "size": 7},
    }


def _certified_style(index: int) -> dict[str, Any]:
    """Heavy, solid, with open markers, so that it is told from an attacked curve without colour."""
    look = series_style(index, "lines+markers")
    symbol = look["marker"]["symbol"]
    return look | {
        "line": look["line"] | {"width": 4, "dash": "solid"},
        "marker": look["marker"] | {"symbol": f"{symbol}-open", "size": 11, "line": {"width": 2.5}},
    }


def layout(x_axis: dict[str, Any], y_axis: dict[str, Any], *, showlegend: bool = True) -> dict[str, Any]:
    """What all figures share, around their axes."""
    return {
        "template": {},  # plotly's own would paint the ground
        "autosize": True,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": _FONT, "size": 13},
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "font": {"family": _FONT, "size": 13}},
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "xaxis": {"rangemode": "tozero"} | x_axis,
        "yaxis": y_axis,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"},
        "showlegend": showlegend,
    }


def axis(title: str) -> dict[str, Any]:
    """An axis as all figures have it."""
    return {
        "title": {"text": title, "font": {"size": 13}, "standoff": 12},
        "automargin": True,
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
    }


def legend_height(num_series: int) -> int:
    """Room for a legend of so many series, in CSS pixels, beyond that of two."""
    return 22 * max(0, num_series - 2)


def finished(figure: go.Figure, title: str, caption: str, height: int) -> Figure:
    """A figure as plain JSON, with its words."""
    return Figure(title, caption, json.loads(figure.to_json()), height)
