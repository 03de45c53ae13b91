"""What the page says of accuracy on corrupted images."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from withstand.reporting.old_figures import (
    SHARES,
    Figure,
    axis,
    draw_chance,
    finished,
    layout,
    legend_height,
    series_style,
)
from withstand.reporting.measures_schema import CorruptionKind, CorruptionLevel, Corruptions
from withstand.reporting.schema import Accuracy
from withstand.reporting.old_wording import cell, count, interval, percent

__all__ = ["CorruptionRow", "CorruptionsView", "view_corruptions"]

_MEAN = {"color": "#8a8f98", "width": 6, "dash": "solid"}


@dataclass(frozen=True)
class CorruptionRow:
    """One kind: its accuracy at each severity, None where it was not measured, and their mean."""

    title: str
    parameter: str
    levels: Sequence[CorruptionLevel | None]
    mean: float


@dataclass(frozen=True)
class CorruptionsView:
    """The section on corruptions.

    Attributes:
        figure: Accuracy against severity, one curve a kind.
        severities: Ascending.
        rows: One a kind.
        means: Over the kinds, one a severity.
        mean: Over kinds and severities.
        clean: Of the whole evaluation, to compare with.
        total: Images, which decides on digits.
        num_examples: The same as a text.
        description: How it was measured.
    """

    figure: Figure
    severities: Sequence[int]
    rows: Sequence[CorruptionRow]
    means: Sequence[float]
    mean: float
    clean: Accuracy
    total: int
    num_examples: str
    description: str


def view_corruptions(found: Corruptions, clean: Accuracy, chance: float | None) -> CorruptionsView | None:
    """What the page shows of accuracy on corrupted images.

    Args:
        found: By the evaluation.
        clean: Accuracy on clean images.
        chance: The accuracy of guessing, drawn as a dotted line; None draws none.

    Returns:
        None where no kind has a level.
    """
    kinds = [kind for kind in found["kinds"] if kind["levels"]]
    if not kinds:
        return None
    severities = sorted({level["severity"] for kind in kinds for level in kind["levels"]})
    rows = [_row(kind, severities) for kind in kinds]
    means = [_mean([row.levels[place] for row in rows]) for place in range(len(severities))]
    return CorruptionsView(
        figure=_figure(kinds, severities, means, chance),
        severities=severities,
        rows=rows,
        means=means,
        mean=found["mean"],
        clean=clean,
        total=found["num_examples"],
        num_examples=count(found["num_examples"]),
        description=found["description"].rstrip("."),
    )


def _row(kind: CorruptionKind, severities: Sequence[int]) -> CorruptionRow:
    by_severity = {level["severity"]: level for level in kind["levels"]}
    levels = [by_severity.get(severity) for severity in severities]
    return CorruptionRow(kind["title"], kind["parameter"], levels, _mean(levels))


def _mean(levels: Sequence[CorruptionLevel | None]) -> float:
    shares = [level["accuracy"] for level in levels if level]
    return sum(shares) / len(shares)


def _figure(
    kinds: Sequence[CorruptionKind], severities: Sequence[int], means: Sequence[float], chance: float | None
) -> Figure:
    mean = go.Scatter(
        name="mean over kinds",
        x=list(severities),
        y=list(means),
        text=[
            f"<b>mean over kinds</b><br>severity {severity}: {percent(share)}"
            for severity, share in zip(severities, means, strict=True)
        ],
        hovertemplate="%{text}<extra></extra>",
        mode="lines",
        line=_MEAN,
        marker={"color": _MEAN["color"]},
        opacity=0.55,
    )
    traces = [mean, *(_trace(kind, index) for index, kind in enumerate(kinds))]
    x_axis = axis("severity") | {"rangemode": "normal", "tickmode": "array", "tickvals": list(severities)}
    figure = go.Figure(traces, layout(x_axis, axis("accuracy") | SHARES))
    draw_chance(figure, chance)
    caption = (
        "Accuracy on corrupted images, from severity 1, slight, to 5, severe. The broad grey line is the "
        "mean over the kinds. The table holds the same numbers; a point's text holds its interval."
    )
    height = 400 + legend_height(len(traces))
    return finished(figure, "Accuracy against severity", caption, height)


def _trace(kind: CorruptionKind, index: int) -> go.Scatter:
    levels = sorted(kind["levels"], key=lambda level: level["severity"])
    title = html.escape(kind["title"])
    return go.Scatter(
        name=title,
        x=[level["severity"] for level in levels],
        y=[level["accuracy"] for level in levels],
        text=[
            f"<b>{title}</b><br>severity {level['severity']}, {html.escape(kind['parameter'])}: "
            f"{cell(level['value'])}<br>accuracy {percent(level['accuracy'], level['total'])}<br>"
            f"95 % interval {interval(level)}"
            for level in levels
        ],
        hovertemplate="%{text}<extra></extra>",
        **series_style(index, "lines+markers"),
    )
