"""The look of all figures: one plotly template, and the traces that sections draw with.

Series differ in colour, dash and marker, so that none is known by colour alone. No two of the eight colours
are near each other for any of the three kinds of colour blindness; each has one of its own hue for a dark
ground, which the page's script puts in its place. Plotly reads some HTML in texts, so whatever a user named
is escaped here, by ``hover`` and ``html.escape``.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import plotly.graph_objects as go
import plotly.io

from withstand.core.writing import percent
from withstand.reporting.formatting import ShareLike, interval
from withstand.reporting.section import Figure
from withstand.results.measurements import Measurement

COLOURS = ("#0047B2", "#E14C00", "#009378", "#9D69D2", "#E79F00", "#56BAE1", "#1B1F27", "#892455")
ON_DARK = ("#5681E9", "#E69F00", "#3DD1A8", "#C69FF9", "#FFDA66", "#B7DCFF", "#FFFFEB", "#D85F7E")
"""What stands for each of the colours on a dark ground."""
GREY = "#8a8f98"
"""Reads on white and on near-black alike."""
FILL: dict[str, Any] = {"fill": "tozeroy", "fillcolor": "rgba(138,143,152,0.16)"}
"""The ground below a curve."""
SHARES: dict[str, Any] = {
    "range": [-0.02, 1.04],
    "tickmode": "array",
    "tickvals": [0.2 * step for step in range(6)],
    "ticktext": [f"{20 * step}\N{NO-BREAK SPACE}%" for step in range(6)],
}
"""An axis of shares, from 0 to 1."""
UNIT = {"range": [-0.02, 1.02]}
"""An axis of numbers from 0 to 1."""
CATEGORIES = {"type": "category", "autorange": "reversed", "dtick": 1}
"""A vertical axis of names, the first on top."""

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "12px,3px,2px,3px,2px,3px", "2px,7px", "longdashdot")
# One more than colours, so that the ninth series is not the first again.
_MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "star", "triangle-down", "cross", "pentagon")
_FONT = {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13}
_AXIS = {
    "title": {"font": {"size": 13}, "standoff": 12},
    "automargin": True,
    "zeroline": False,
    "showline": True,
    "ticks": "outside",
    "ticklen": 4,
}
_INTERVAL = {"type": "data", "symmetric": False, "thickness": 1.5, "width": 5}
# Decades at most -> the digits that have a tick in each.
_TICKS = {1.0: (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0), 3.0: (1.0, 2.0, 5.0)}
_MOST_POWERS = 8
_FEWEST_TICKS = 3
_SHARE_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
_MOST_SHARE_TICKS = 9

plotly.io.templates["withstand"] = go.layout.Template(
    layout={
        "autosize": True,
        "paper_bgcolor": "rgba(0,0,0,0)",  # the page's own ground, which is dark or light
        "plot_bgcolor": "rgba(0,0,0,0)",
        "colorway": COLOURS,
        "font": _FONT,
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "font": _FONT},
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "xaxis": _AXIS | {"rangemode": "tozero"},
        "yaxis": _AXIS,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"},
    },
    data={"scatter": [{"connectgaps": True, "cliponaxis": False}]},
)


def chart(
    traces: Sequence[go.Scatter | go.Bar],
    title: str,
    caption: str,
    *,
    x: dict[str, Any],
    y: dict[str, Any],
    height: int,
    chance: float | None = None,
    layout: dict[str, Any] | None = None,
) -> Figure:
    """A figure ready for the page.

    Args:
        traces: In the order of the legend.
        title: Its heading.
        caption: What it shows.
        x: The horizontal axis, from ``axis``.
        y: The vertical one.
        height: In CSS pixels, with a legend of two series; it grows with each more.
        chance: The accuracy of guessing, drawn as a dotted line; None draws none.
        layout: What else the layout holds; ``showlegend`` is on unless it says otherwise.
    """
    figure = go.Figure(traces, {"template": "withstand", "xaxis": x, "yaxis": y, "showlegend": True})
    figure.update_layout(layout or {})
    if chance is not None:
        figure.add_hline(
            y=chance,
            line={"color": GREY, "dash": "dot", "width": 1.5},
            annotation_text=f"chance, {percent(chance)}",
            annotation_position="bottom right",
        )
    in_legend = sum(trace.showlegend is not False for trace in traces)
    return Figure(title, caption, json.loads(figure.to_json()), height + 22 * max(0, in_legend - 2))


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis and what it adds to the template's, such as ``**SHARES``."""
    return {"title": {"text": html.escape(title, quote=False)}} | more


def look(index: int, *, is_proven: bool = False) -> dict[str, Any]:
    """Colour, dash and marker of the series of a number.

    What is proven is heavy, solid, with open markers, so that it is distinct from the rest without colour.
    """
    colour = COLOURS[index % len(COLOURS)]
    line = {"color": colour, "width": 2.2, "dash": DASHES[index % len(DASHES)]}
    marker = {"color": colour, "symbol": _MARKERS[index % len(_MARKERS)], "size": 7}
    if is_proven:
        line |= {"width": 4, "dash": "solid"}
        marker |= {"symbol": f"{marker['symbol']}-open", "size": 11, "line": {"width": 2.5}}
    return {"line": line, "marker": marker}


def series(
    name: str,
    x: Iterable[Any],
    y: Iterable[Any],
    index: int,
    *,
    texts: Sequence[str] | None = None,
    is_proven: bool = False,
    line: dict[str, Any] | None = None,
    marker: dict[str, Any] | None = None,
    **more: Any,
) -> go.Scatter:
    """A curve or dots, in the look of the series of a number.

    Args:
        name: What the legend calls it.
        x: Places.
        y: Values.
        index: Its number, of which colour, dash and marker come.
        texts: What pointing at each point tells, from ``hover``; None tells nothing.
        is_proven: Whether it is certified.
        line: What differs from the look.
        marker: Likewise.
        **more: Whatever else plotly's Scatter takes, such as ``mode`` and ``error_y=intervals_of(...)``.
    """
    style = look(index, is_proven=is_proven)
    hover_settings = {"hoverinfo": "skip"} if texts is None else {"hovertext": texts}
    hover_settings |= {} if texts is None else {"hovertemplate": "%{hovertext}<extra></extra>"}
    return go.Scatter(
        **{"name": html.escape(name) or None, "x": list(x), "y": list(y), "mode": "lines+markers"}
        | hover_settings
        | {"line": style["line"] | (line or {}), "marker": style["marker"] | (marker or {})}
        | more
    )


def share_series(
    name: str,
    shares: Sequence[Measurement],
    index: int,
    lines_of: Callable[[Measurement], Sequence[str]],
    **more: Any,
) -> go.Scatter:
    """A curve of shares over their levels; pointing at one tells its interval too.

    Args:
        name: What the legend calls it.
        shares: Rows of the table.
        index: Of which colour, dash and marker come.
        lines_of: The lines of a share's text between its name and its interval.
        **more: As of ``series``.
    """
    ends = [f"95 % interval {text}" if (text := interval(share)) else "" for share in shares]
    texts = [hover(name, *lines_of(share), end) for share, end in zip(shares, ends, strict=True)]
    values = [share.value for share in shares]
    return series(name, [share.level for share in shares], values, index, texts=texts, **more)


def bars(
    name: str,
    x: Iterable[Any],
    y: Iterable[float],
    colour: str,
    texts: Sequence[str],
    *,
    marker: dict[str, Any] | None = None,
    **more: Any,
) -> go.Bar:
    """Bars of one colour; ``texts`` are what pointing at each tells."""
    return go.Bar(
        name=html.escape(name),
        x=list(x),
        y=list(y),
        hovertext=texts,
        hovertemplate="%{hovertext}<extra></extra>",
        marker={"color": colour} | (marker or {}),
        **more,
    )


def reference(name: str, x: Iterable[Any], y: Iterable[Any], **line: Any) -> go.Scatter:
    """A grey line to compare others with; pointing at it tells nothing."""
    style = {"color": GREY, "width": 1.5, "dash": "dot"} | line
    return go.Scatter(
        name=name,
        x=list(x),
        y=list(y),
        mode="lines",
        connectgaps=False,
        hoverinfo="skip",
        line=style,
        marker={"color": GREY},
    )


def error_bars(values: Iterable[float], lower: Iterable[float], upper: Iterable[float]) -> dict[str, Any]:
    """Bars from the lower to the upper end of each value's interval."""
    triples = list(zip(values, lower, upper, strict=True))
    return _INTERVAL | {
        "array": [high - value for value, _, high in triples],
        "arrayminus": [value - low for value, low, _ in triples],
    }


def intervals_of(shares: Sequence[ShareLike]) -> dict[str, Any]:
    """Bars of the intervals of shares; none where one has no interval."""
    return error_bars(
        [share.value for share in shares],
        [share.value if share.lower is None else share.lower for share in shares],
        [share.value if share.upper is None else share.upper for share in shares],
    )


def hover(name: str, *lines: str) -> str:
    """What pointing at a point tells: its name in bold, and lines below it, all escaped."""
    return "<br>".join([f"<b>{html.escape(name)}</b>", *map(html.escape, filter(None, lines))])


def shares_between(lowest: float, highest: float) -> dict[str, Any]:
    """An axis of shares that shows those between two, with room to both sides and some four to nine ticks."""
    room = max(0.06 * (highest - lowest), 0.002)
    low, high = lowest - room, highest + room
    step = next((step for step in _SHARE_STEPS if (high - low) / step <= _MOST_SHARE_TICKS), _SHARE_STEPS[-1])
    ticks = [round(step * place, 6) for place in range(math.ceil(low / step), math.floor(high / step) + 1)]
    ticks = [tick for tick in ticks if 0 <= tick <= 1]
    texts = [f"{100 * tick:g}\N{NO-BREAK SPACE}%" for tick in ticks]
    ends = {"range": [low, high], "rangemode": "normal"}
    return ends | {"tickmode": "array", "tickvals": ticks, "ticktext": texts}


def logarithmic(values: Sequence[float]) -> dict[str, Any]:
    """What makes an axis logarithmic around positive values, with ticks that are written out."""
    lowest, highest = (math.log10(value) for value in (min(values) / 1.25, max(values) * 1.25))
    decades = highest - lowest
    digits = next((digits for most, digits in _TICKS.items() if decades <= most), (1.0,))
    step = math.ceil(decades / _MOST_POWERS)
    powers = range(math.floor(lowest), math.ceil(highest) + 1, step)
    ticks = [float(f"{digit}e{power}") for power in powers for digit in digits]
    ticks = [tick for tick in ticks if lowest <= math.log10(tick) <= highest]
    if len(ticks) < _FEWEST_TICKS:  # they are near one another: ticks as on a linear axis
        ends = 10**lowest, 10**highest
        power = 10 ** math.floor(math.log10(ends[1] - ends[0]))
        steps = (power, power / 2, power / 5)
        step = next((step for step in steps if (ends[1] - ends[0]) / step >= _FEWEST_TICKS), steps[-1])
        ticks = [step * place for place in range(math.ceil(ends[0] / step), math.floor(ends[1] / step) + 1)]
    return {
        "type": "log",
        "rangemode": "normal",
        "range": [lowest, highest],
        "tickmode": "array",
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }
