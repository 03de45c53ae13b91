"""The figure of groups of runs: clean accuracy over seeds."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from withstand.reporting.families import Family, levels_of
from withstand.reporting.old_figures import COLOURS, Figure, axis, finished, layout, series_style
from withstand.reporting.seeds import Group, Mean, mean_text

__all__ = ["bars", "legend_of", "seeds_figure"]

_SHARES = {"tickformat": ".1~%", "rangemode": "normal"}
_BAR = "rgba(138,143,152,0.7)"  # behind the dots, on white and on near-black alike
_LABEL_WIDTH = 22
_LEVEL_STEP = 0.22


def seeds_figure(groups: Sequence[Group]) -> Figure:
    """Clean accuracy of each group as a dot with its interval, and of each run as a small dot.

    Args:
        groups: At least one; they are sorted by accuracy, the best on top.
    """
    levels = levels_of(groups)
    rows = sorted(levels.rows.items(), key=lambda row: _best(list(row[1].values())))
    places = {name: float(place) for place, (name, _) in enumerate(rows)}
    traces = []
    for number, level in enumerate(levels.names):
        shift = _LEVEL_STEP * ((len(levels.names) - 1) / 2 - number)
        having = [(places[name] + shift, cells[level]) for name, cells in rows if level in cells]
        traces += [_run_dots(having, number), _mean_dots(having, number, level)]
    ticks = {"tickmode": "array", "tickvals": list(places.values())}
    y_axis = axis("") | ticks | {"ticktext": [_wrapped(name) for name in places], "showgrid": False}
    y_axis |= {"range": [-0.6, len(rows) - 0.4]}
    title = {"legend": {"title": {"text": html.escape(levels.word)}}} if levels.word else {}
    shape = layout(axis("clean accuracy") | _SHARES, y_axis, showlegend=levels.word is not None)
    shape["legend"] |= title.get("legend", {})
    small = " Small dots are single runs." if any(group.num_seeds > 1 for group in groups) else ""
    caption = _about(groups) + small
    lines = 1 + max(text.count("<br>") for text in y_axis["ticktext"])
    height = 110 + len(rows) * max(14 + 16 * lines, 12 + 16 * len(levels.names))
    return finished(go.Figure(traces, shape), "Clean accuracy", caption, height)


def _about(groups: Sequence[Group]) -> str:
    numbers = {group.num_seeds for group in groups}
    if numbers == {1}:
        return (
            "Each dot is one run, and bars are the 95 % binomial intervals of its test examples: "
            "they say nothing of other seeds."
        )
    of_one = "; of a single run, the binomial interval of its test examples" if 1 in numbers else ""
    return f"Dots are means over seeds, and bars their 95 % intervals (Student's t){of_one}."


def _best(groups: Sequence[Group]) -> float:
    return max(group.clean.value for group in groups)


def _wrapped(text: str) -> str:
    return "<br>".join(map(html.escape, textwrap.wrap(text, _LABEL_WIDTH))) or html.escape(text)


def _run_dots(having: Sequence[tuple[float, Group]], number: int) -> go.Scatter:
    dots = [(share, place) for place, group in having for share in group.clean.runs if group.num_seeds > 1]
    return go.Scatter(
        x=[share for share, _ in dots],
        y=[place for _, place in dots],
        mode="markers",
        hoverinfo="skip",
        showlegend=False,
        legendgroup=str(number),
        marker={"color": COLOURS[number % len(COLOURS)], "size": 5, "opacity": 0.45},
    )


def _mean_dots(having: Sequence[tuple[float, Group]], number: int, level: str) -> go.Scatter:
    look = series_style(number, "markers")
    return go.Scatter(
        name=html.escape(level),
        legendgroup=str(number),
        x=[group.clean.value for _, group in having],
        y=[place for place, _ in having],
        error_x=bars([group.clean for _, group in having]),
        text=[_hover(group, [("clean", group.clean)]) for _, group in having],
        hovertemplate="%{text}<extra></extra>",
        **look | {"marker": look["marker"] | {"size": 9}},
    )


def legend_of(family: Family) -> str:
    """What a family is called beside its line."""
    return family.name if family.word in (None, family.name) else f"{family.name} ({family.word})"


def bars(means: Sequence[Mean]) -> dict[str, Any]:
    """Error bars from the lower to the upper end of each mean's interval."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [mean.upper - mean.value for mean in means],
        "arrayminus": [mean.value - mean.lower for mean in means],
        "color": _BAR,
        "thickness": 1.2,
        "width": 3,
    }


def _hover(group: Group, means: Sequence[tuple[str, Mean]]) -> str:
    seeds = "one run" if group.num_seeds == 1 else f"{group.num_seeds} seeds"
    lines = [
        f"<b>{html.escape(group.label)}</b>, {seeds}",
        *(f"{name} {mean_text(each)}" for name, each in means),
    ]
    return "<br>".join(lines)
