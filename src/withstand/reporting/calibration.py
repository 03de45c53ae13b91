"""What the page says of calibration: whether confidence is what accuracy bears out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from withstand.reporting.old_figures import COLOURS, GREY, Figure, axis, finished, layout, series_style
from withstand.reporting.measures_schema import Bin, Calibration
from withstand.reporting.old_wording import cell, count, percent

__all__ = ["BinRow", "CalibrationView", "view_calibration"]

_UNIT = {"tickformat": ".0%", "range": [-0.02, 1.02]}


@dataclass(frozen=True)
class BinRow:
    """One bin, its numbers as texts."""

    span: str
    number: str
    confidence: str
    accuracy: str
    gap: str


@dataclass(frozen=True)
class CalibrationView:
    """The section on calibration.

    Attributes:
        figures: The reliability diagram, and how many examples each bin holds.
        rows: One a bin that holds any.
        error: The expected calibration error, as a text.
        num_bins: How many bins there are.
        verdict: Whether the network is too sure, in words.
    """

    figures: Sequence[Figure]
    rows: Sequence[BinRow]
    error: str
    num_bins: int
    verdict: str


def view_calibration(found: Calibration) -> CalibrationView | None:
    """What the page shows of calibration; None where no bin holds an example."""
    filled = [(each, *pair) for each in found["bins"] if (pair := _pair(each))]
    if not filled:
        return None
    return CalibrationView(
        figures=[_reliability(filled), _counts(found["bins"])],
        rows=[_row(*each) for each in filled],
        error=f"{found['error']:.4f}",
        num_bins=found["num_bins"],
        verdict=_verdict(filled),
    )


_Filled = tuple[Bin, float, float]


def _pair(of: Bin) -> tuple[float, float] | None:
    """Confidence and accuracy, where there are examples."""
    confidence, accuracy = of["confidence"], of["accuracy"]
    return None if confidence is None or accuracy is None or not of["count"] else (confidence, accuracy)


def _verdict(filled: Sequence[_Filled]) -> str:
    total = sum(each["count"] for each, _, _ in filled)
    gap = sum(each["count"] * (confidence - accuracy) for each, confidence, accuracy in filled) / total
    if abs(gap) < 0.005:
        return "On the whole confidence and accuracy agree within half a point."
    how = "surer than it is right" if gap > 0 else "less sure than it is right"
    return f"On the whole the network is {how}, by {100 * abs(gap):.1f} points."


def _span(of: Bin) -> str:
    return f"{of['lower']:.3g} to {of['upper']:.3g}"


def _row(of: Bin, confidence: float, accuracy: float) -> BinRow:
    number = of["count"]
    gap = f"{100 * (confidence - accuracy):+.1f} points".replace("-", "\N{MINUS SIGN}")
    return BinRow(_span(of), count(number), cell(confidence), percent(accuracy, number), gap)


def _reliability(filled: Sequence[_Filled]) -> Figure:
    largest = max(each["count"] for each, _, _ in filled)
    diagonal = go.Scatter(
        name="confidence equals accuracy",
        mode="lines",
        x=[0, 1],
        y=[0, 1],
        hoverinfo="skip",
        line={"color": GREY, "dash": "dash", "width": 1.5},
        marker={"color": GREY},
    )
    look = series_style(0, "lines+markers")
    sizes = [6 + 12 * (each["count"] / largest) ** 0.5 for each, _, _ in filled]
    points = go.Scatter(
        name="clean test examples",
        x=[confidence for _, confidence, _ in filled],
        y=[accuracy for _, _, accuracy in filled],
        text=[
            f"<b>confidence {_span(each)}</b><br>{count(each['count'])} examples<br>"
            f"mean confidence {percent(confidence)}<br>accuracy {percent(accuracy)}"
            for each, confidence, accuracy in filled
        ],
        hovertemplate="%{text}<extra></extra>",
        **look | {"marker": look["marker"] | {"size": sizes}},
    )
    shape = layout(axis("mean confidence") | _UNIT, axis("accuracy") | _UNIT)
    caption = (
        "Accuracy against mean confidence of the examples in each bin; a larger marker is of more examples. "
        "Below the dashed line the network is surer than it is right."
    )
    return finished(go.Figure([diagonal, points], shape), "Reliability", caption, 400)


def _counts(bins: Sequence[Bin]) -> Figure:
    bars = go.Bar(
        name="examples",
        x=[(each["lower"] + each["upper"]) / 2 for each in bins],
        y=[each["count"] for each in bins],
        width=[0.9 * (each["upper"] - each["lower"]) for each in bins],
        hovertext=[f"<b>confidence {_span(each)}</b><br>{count(each['count'])} examples" for each in bins],
        hovertemplate="%{hovertext}<extra></extra>",
        marker={"color": COLOURS[0]},
    )
    y_axis: dict[str, Any] = axis("test examples") | {"rangemode": "tozero"}
    shape = layout(axis("confidence") | _UNIT, y_axis, showlegend=False)
    caption = "How many examples the network answers with so much confidence."
    return finished(go.Figure([bars], shape), "Examples in each bin", caption, 400)
