"""What the page says of analytic moments under noise, held against samples."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from withstand.reporting.old_figures import (
    COLOURS,
    GREY,
    Figure,
    axis,
    finished,
    layout,
    legend_height,
    series_style,
)
from withstand.reporting.moments_schema import Moments, MomentsLayer, MomentsLevel, MomentsMethod
from withstand.reporting.old_wording import cell, count, duration

__all__ = ["LayerRow", "MethodRow", "MomentsLevelView", "MomentsView", "view_moments"]

_COLOURED = ("diagonal", "factored", "full")
_FEW_DIGITS = 1000


@dataclass(frozen=True)
class MethodRow:
    """One analytic form at one level: its numbers as texts, or why there are none."""

    noise_std: str
    name: str
    numbers: Sequence[str]
    reason: str | None


@dataclass(frozen=True)
class LayerRow:
    """One analytic form in the layers of one type, its numbers as texts."""

    operation: str
    form: str
    numbers: Sequence[str]


@dataclass(frozen=True)
class MomentsLevelView:
    """The layers at one level."""

    noise_std: str
    rows: Sequence[LayerRow]


@dataclass(frozen=True)
class MomentsView:
    """The section on moments.

    Attributes:
        figure: Analytic against sampled deviations; None where there are none.
        methods: One a level and analytic form.
        reasons: Why a form was not tried, by its name.
        layers: One a level, the largest first; none where no form went layer by layer.
        num_examples: As a text.
        num_samples: As a text.
        standard_error: Of the sampled means, as a text.
        sample: How long one draw takes, as a text.
        description: How it was found.
    """

    figure: Figure | None
    methods: Sequence[MethodRow]
    reasons: Sequence[tuple[str, str]]
    layers: Sequence[MomentsLevelView]
    num_examples: str
    num_samples: str
    standard_error: str
    sample: str
    description: str


def view_moments(found: Moments) -> MomentsView | None:
    """What the page shows of the moments; None where there are no levels."""
    levels = sorted(found["levels"], key=lambda level: level["noise_std"])
    if not levels:
        return None
    refused = {
        method["name"]: method["reason"] or ""
        for level in levels
        for method in level["methods"]
        if method["reason"] is not None
    }
    return MomentsView(
        figure=_figure(levels),
        methods=[_method_row(level, method) for level in levels for method in level["methods"]],
        reasons=list(refused.items()),
        layers=[_level_view(level) for level in reversed(levels) if level["layers"]],
        num_examples=count(found["num_examples"]),
        num_samples=count(found["num_samples"]),
        standard_error=f"{found['standard_error']:.2g}",
        sample=duration(levels[0]["sample_seconds"]),
        description=found["description"],
    )


def _method_row(level: MomentsLevel, method: MomentsMethod) -> MethodRow:
    ratio, seconds = method["std_ratio"], method["seconds"]
    numbers = [
        _number(method["mean_error"]),
        cell(None) if ratio is None else f"{ratio['median']:.3f}",
        cell(None) if ratio is None else f"{ratio['low']:.3f}\N{EN DASH}{ratio['high']:.3f}",
        cell(None) if seconds is None else duration(seconds),
        _number(method["matching_samples"]),
        _number(method["speed_up"]),
        _number(method["full_speed_up"]),
    ]
    return MethodRow(f"{level['noise_std']:.4g}", method["name"], numbers, method["reason"])


def _level_view(level: MomentsLevel) -> MomentsLevelView:
    rows = [row for layer in level["layers"] for row in _layer_rows(layer)]
    return MomentsLevelView(f"{level['noise_std']:.4g}", rows)


def _layer_rows(layer: MomentsLayer) -> list[LayerRow]:
    several = f" \N{MULTIPLICATION SIGN} {layer['count']}" if layer["count"] > 1 else ""
    rows = []
    for name, form in layer["forms"].items():
        all_before, own = form["accumulated"], form["own"]
        numbers = [
            all_before["mean_error"],
            own["mean_error"],
            all_before["std_error"],
            own["std_error"],
            all_before["std_ratio"],
            own["std_ratio"],
            form["samples"],
        ]
        rows.append(LayerRow(f"{layer['operation']}{several}", name, [_number(each) for each in numbers]))
    return rows


def _number(value: float | None) -> str:
    """With three digits, and nothing below a ten-thousandth, which is rounding here."""
    if value is None:
        return cell(None)
    if 0 < abs(value) < 1e-4:
        return "<\N{NO-BREAK SPACE}0.0001"
    return f"{value:.3g}" if abs(value) < _FEW_DIGITS else count(round(value))


def _figure(levels: Sequence[MomentsLevel]) -> Figure | None:
    traces = [trace for name in _names(levels) if (trace := _dots(levels, name)).x]
    if not traces:
        return None
    values = [value for trace in traces for value in (*trace.x, *trace.y) if value > 0]
    ends = [min(values) / 1.25, max(values) * 1.25]
    diagonal = go.Scatter(
        name="equal",
        mode="lines",
        x=ends,
        y=ends,
        hoverinfo="skip",
        line={"color": GREY, "width": 1.5, "dash": "dot"},
        marker={"color": GREY},
    )
    logarithmic = {"type": "log", "rangemode": "normal", "dtick": "D2" if ends[1] < 30 * ends[0] else 1}
    figure = go.Figure(
        [diagonal, *traces],
        layout(
            axis("sampled deviation of a logit") | logarithmic,
            axis("analytic deviation") | logarithmic,
        ),
    )
    caption = (
        "Each point is one logit of one image at one noise_std; on the dotted line the analytic deviation is "
        "the sampled one. Both axes are logarithmic."
    )
    height = 420 + legend_height(1 + len(traces))
    return finished(figure, "Deviation of logits, analytic against sampled", caption, height)


def _names(levels: Sequence[MomentsLevel]) -> list[str]:
    return list(dict.fromkeys(method["name"] for level in levels for method in level["methods"]))


def _dots(levels: Sequence[MomentsLevel], name: str) -> go.Scatter:
    points = [
        (level["noise_std"], *point)
        for level in levels
        for method in level["methods"]
        if method["name"] == name
        for point in method["points"]
        if len(point) == 2 and min(point) > 0
    ]
    place = _COLOURED.index(name) if name in _COLOURED else len(_COLOURED)
    look = series_style(place, "markers")
    return go.Scatter(
        name=html.escape(name),
        x=[sampled for _, sampled, _ in points],
        y=[analytic for _, _, analytic in points],
        text=[
            f"<b>{html.escape(name)}</b><br>noise_std {std:.4g}<br>"
            f"sampled {sampled:.4g}, analytic {analytic:.4g}"
            for std, sampled, analytic in points
        ],
        hovertemplate="%{text}<extra></extra>",
        **look | {"marker": look["marker"] | {"size": 6, "opacity": 0.75, "color": COLOURS[place]}},
    )
