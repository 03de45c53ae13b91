"""What withstanding noise costs: accuracy under noise against the time that training took."""

from __future__ import annotations

import html
from collections.abc import Sequence
from statistics import fmean

import plotly.graph_objects as go

from withstand.reporting.families import Family, families_of
from withstand.reporting.figures import Figure, axis, finished, layout, legend_height, series_style
from withstand.reporting.group_figures import legend_of
from withstand.reporting.seeds import Group
from withstand.reporting.wording import duration, percent

__all__ = ["noise_cost_figure"]

_SHARES = {"tickformat": ".1~%", "rangemode": "normal"}


def noise_cost_figure(groups: Sequence[Group]) -> Figure | None:
    """Mean accuracy under noise against training time, groups that differ in one number joined by a line.

    Args:
        groups: Of runs that differ in their seeds alone.

    Returns:
        The figure; None where fewer than two groups were timed and measured under noise alike.
    """
    having = [group for group in groups if group.noise is not None and group.train_seconds]
    if len(having) < 2 or len({group.noise.scale for group in having if group.noise}) > 1:
        return None
    families = families_of(having)
    traces = [_trace(family, number) for number, family in enumerate(families)]
    x_axis = axis("training time in seconds") | {"type": "log", "rangemode": "normal", "dtick": "D2"}
    shape = layout(x_axis, axis("mean accuracy under noise") | _SHARES)
    caption = (
        "The upper left is best. The axis of time is logarithmic; times hold for the machine of the runs."
    )
    if any(family.word for family in families):
        caption += " A line joins what differs in one number alone, which stands beside each point."
    height = 440 + legend_height(len(families))
    return finished(go.Figure(traces, shape), "Accuracy under noise against training time", caption, height)


def _trace(family: Family, number: int) -> go.Scatter:
    groups = [group for _, group in family.members]
    look = series_style(number, "lines+markers+text" if family.word else "markers")
    return go.Scatter(
        name=html.escape(legend_of(family)),
        x=[group.train_seconds for group in groups],
        y=[_accuracy(group) for group in groups],
        text=[html.escape(level) for level, _ in family.members],
        textposition="top center",
        textfont={"size": 12},
        customdata=[_hover(group) for group in groups],
        hovertemplate="%{customdata}<extra></extra>",
        **look | {"marker": look["marker"] | {"size": 9}},
    )


def _accuracy(group: Group) -> float | None:
    return fmean(group.noise.mean) if group.noise else None


def _hover(group: Group) -> str:
    accuracy, seconds = _accuracy(group) or 0.0, group.train_seconds or 0.0
    lines = [f"<b>{html.escape(group.label)}</b>", f"mean accuracy under noise {percent(accuracy)}"]
    return "<br>".join([*lines, f"training {duration(seconds)}"])
