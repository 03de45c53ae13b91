"""What the page says of kernel norms: bounds from below and from above, side by side."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from withstand.reporting.axes import logarithmic
from withstand.reporting.old_figures import COLOURS, GREY, Figure, axis, finished, layout
from withstand.reporting.schema import KernelNorms, KernelNormsOfClass
from withstand.reporting.old_wording import cell, count

__all__ = ["KernelNormsView", "Row", "view_kernel_norms"]

_LOWER = ("gradient", "perturbation", "deformation")
_SERIES = {
    "gradient": ("gradient", "circle-open"),
    "perturbation": ("perturbation", "square-open"),
    "deformation": ("deformation", "diamond-open"),
    "spectral": ("spectral, from above", "triangle-left"),
}
_MOST_CLASSES = 30


@dataclass(frozen=True)
class Row:
    """A row of a table: what it is of, and its numbers as texts."""

    name: str
    numbers: Sequence[str]


@dataclass(frozen=True)
class KernelNormsView:
    """The section on kernel norms.

    Attributes:
        figure: The bounds as dots; None where there is nothing above 0 to draw.
        total: The largest of each bound over the classes, and of what is above to what is below.
        rows: One a class.
        layers: One a layer: norm of the reshaped kernel, of the operator, and their quotient.
        description: How the bounds were found.
        reason: Why there is no upper bound; None where there is one.
        num_examples: How many examples were looked at, as a text.
    """

    figure: Figure | None
    total: Row
    rows: Sequence[Row]
    layers: Sequence[Row]
    description: str
    reason: str | None
    num_examples: str


def view_kernel_norms(found: KernelNorms) -> KernelNormsView:
    """What the page shows of the bounds that an evaluation found."""
    total: KernelNormsOfClass = {"class": "Largest", **found["summary"]}
    return KernelNormsView(
        figure=_figure(found["classes"]),
        total=_row(total),
        rows=[_row(each) for each in found["classes"]],
        layers=[
            Row(each["name"], _pair(each["kernel_norm"], each["operator_norm"])) for each in found["layers"]
        ],
        description=found["description"],
        reason=found.get("reason"),
        num_examples=count(found["num_examples"]),
    )


def _row(bounds: KernelNormsOfClass) -> Row:
    lower = _lower(bounds)
    changes = bounds["deformation"], bounds["deformation_change"]
    numbers = [bounds["gradient"], bounds["perturbation"], *changes, lower, bounds["spectral"]]
    return Row(bounds["class"], [*map(cell, numbers), _quotient(bounds["spectral"], lower)])


def _pair(kernel: float | None, operator: float | None) -> list[str]:
    return [cell(kernel), cell(operator), _quotient(operator, kernel)]


def _lower(bounds: KernelNormsOfClass) -> float:
    return max(bounds["gradient"], bounds["perturbation"], bounds["deformation"] or 0.0)


def _quotient(upper: float | None, lower: float | None) -> str:
    return cell(upper / lower if upper is not None and lower else None)


def _figure(classes: Sequence[KernelNormsOfClass]) -> Figure | None:
    largest = sorted(range(len(classes)), key=lambda index: _lower(classes[index]), reverse=True)
    shown = [classes[index] for index in sorted(largest[:_MOST_CLASSES])]
    dots = [trace for trace in (_dots(shown, key) for key in _SERIES) if any(trace.x)]
    if not dots:
        return None
    span = _span(shown)
    x_axis = axis("logits a unit of ℓ2 distance, images in [0, 1]") | logarithmic(
        [value for trace in dots for value in trace.x if value]
    )
    y_axis = axis("class") | {"type": "category", "autorange": "reversed", "dtick": 1, "showgrid": False}
    caption = "Open markers are lower bounds, which were reached; a filled one is an upper bound, proven. "
    caption += "The true constant lies on the line between them. " if span.x else ""
    caption += "The axis is logarithmic, so that what is 0 is not drawn."
    if len(shown) < len(classes):
        caption += f" Shown are the {len(shown)} classes with the largest lower bounds."
    figure = go.Figure([*([span] if span.x else []), *dots], layout(x_axis, y_axis))
    return finished(figure, "Bounds of each class logit's Lipschitz constant", caption, 170 + 24 * len(shown))


def _span(classes: Sequence[KernelNormsOfClass]) -> go.Scatter:
    """From the largest lower bound to the upper one, a line a class."""
    ends: list[float | None] = []
    names: list[str | None] = []
    for each in classes:
        lower, upper = _lower(each), each["spectral"]
        if upper and lower:
            ends += [lower, upper, None]
            names += [_name(each), _name(each), None]
    return go.Scatter(
        name="where the constant lies",
        mode="lines",
        x=ends,
        y=names,
        hoverinfo="skip",
        line={"color": GREY, "width": 3},
        marker={"color": GREY},
    )


def _dots(classes: Sequence[KernelNormsOfClass], key: str) -> go.Scatter:
    legend, symbol = _SERIES[key]
    colour = COLOURS[list(_SERIES).index(key)]
    values = [_number(each, key) or None for each in classes]
    outline: dict[str, Any] = {"width": 2 if symbol.endswith("-open") else 0}
    return go.Scatter(
        name=legend,
        mode="markers",
        x=values,
        y=[_name(each) for each in classes],
        text=[
            f"<b>{_name(each)}</b><br>{legend}: {cell(value)}"
            for each, value in zip(classes, values, strict=True)
        ],
        hovertemplate="%{text}<extra></extra>",
        cliponaxis=False,
        line={"color": colour},
        marker={"color": colour, "symbol": symbol, "size": 10, "line": outline},
    )


def _number(bounds: KernelNormsOfClass, key: str) -> float | None:
    numbers: dict[str, float | None] = {
        "gradient": bounds["gradient"],
        "perturbation": bounds["perturbation"],
        "deformation": bounds["deformation"],
        "spectral": bounds["spectral"],
    }
    return numbers[key]


def _name(bounds: KernelNormsOfClass) -> str:
    return html.escape(bounds["class"])
