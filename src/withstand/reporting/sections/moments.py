"""Analytic moments under noise, held against samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

import plotly.graph_objects as go
from markupsafe import Markup

from withstand.reporting.figures import axis, chart, hover, reference, series
from withstand.reporting.read import Run
from withstand.reporting.section import Cell, Figure, Prose, Section, Table, paragraphs
from withstand.reporting.wording import cell, count, duration, sentence
from withstand.results.analytic import MomentsLevel, MomentsMethod
from withstand.results.measurements import MOMENTS_ERROR, MOMENTS_SPEED_UP

PLACE = 30
_COLOURED = ("diagonal", "factored", "full")
_FEW_DIGITS = 1000
_TEXTS = paragraphs("moments")
_LOGITS_HEADER = (
    *("noise_std, form", "Mean error", "Std ratio, median", "5–95 %", "Time an image", "Draws as good"),
    *("Speed-up", "Against all"),
)
_LAYERS_HEADER = (
    *("Layers, form", "Mean error", "own", "Std error", "own", "Std ratio", "own", "Costs draws"),
)


def section(run: Run) -> Section | None:
    """What each analytic form is worth; None where there are no levels."""
    moments = run.results.moments if run.results else None
    if moments is None or not moments.levels:
        return None
    levels = sorted(moments.levels, key=lambda level: level.noise_std)
    methods = [(level, method) for level in levels for method in level.methods]
    reasons = {method.name: method.reason for _, method in methods if method.reason is not None}
    meaning = Markup(_TEXTS["meaning"]).format(
        draws=count(moments.num_samples),
        examples=count(moments.num_examples),
        error=moments.standard_error,
        duration=duration(levels[0].sample_seconds),
    )
    figure = _figure(methods)
    logits = [_method_row(*each) for each in methods]
    layered = [level for level in reversed(levels) if level.layers]
    return Section(
        key="moments",
        title="Analytic moments under noise",
        tab="noise",
        prose=[Prose(meaning, "meaning", "How to read them.")],
        figures=[figure] if figure else [],
        tables=[
            Table("Analytic moments under noise", _LOGITS_HEADER, logits, _TEXTS["logits"], kind="compare"),
            *(_layers_table(level, is_first=level is layered[0]) for level in layered),
        ],
        notes=[
            *(Prose(reason, "small", f"{name}.") for name, reason in reasons.items()),
            Prose(sentence(moments.description), "small"),
        ],
        measures=[MOMENTS_ERROR, MOMENTS_SPEED_UP],
    )


def _method_row(level: MomentsLevel, method: MomentsMethod) -> list[Cell]:
    name = Cell(f"{level.noise_std:.4g}, {method.name}")
    if method.reason is not None:
        return [name, Cell("not tried", is_words=True, span=len(_LOGITS_HEADER) - 1)]
    median = between = time = cell(None)
    if ratio := method.std_ratio:
        median, between = f"{ratio.median:.3f}", f"{ratio.low:.3f}\N{EN DASH}{ratio.high:.3f}"
    if method.seconds is not None:
        time = duration(method.seconds)
    worth = map(_number, (method.matching_samples, method.speed_up, method.full_speed_up))
    return [name, *map(Cell, (_number(method.mean_error), median, between, time, *worth))]


def _layers_table(level: MomentsLevel, *, is_first: bool) -> Table:
    std = f"{level.noise_std:.4g}"
    body = []
    for layer in level.layers:
        several = f" \N{MULTIPLICATION SIGN} {layer.count}" if layer.count > 1 else ""
        for name, form in layer.forms.items():
            pairs = zip(astuple(form.accumulated), astuple(form.own), strict=True)
            numbers = [*(number for pair in pairs for number in pair), form.samples]
            body.append([f"{layer.operation}{several}, {name}", *map(_number, numbers)])
    title, caption = f"Layers at noise_std {std}", _TEXTS["layers"].format(noise_std=std)
    lead = _TEXTS["by_layer"] if is_first else ""
    return Table(title, _LAYERS_HEADER, body, caption, is_folded=not is_first, kind="compare", lead=lead)


def _number(value: float | None) -> str:
    """With three digits, and nothing below a ten-thousandth, which is rounding here."""
    if value is None:
        return cell(None)
    if 0 < abs(value) < 1e-4:
        return "<\N{NO-BREAK SPACE}0.0001"
    return f"{value:.3g}" if abs(value) < _FEW_DIGITS else count(round(value))


def _figure(methods: Sequence[tuple[MomentsLevel, MomentsMethod]]) -> Figure | None:
    """Analytic against sampled deviations of logits; None where there are none."""
    points = {
        name: [
            (level.noise_std, *point)
            for level, method in methods
            for point in method.points
            if method.name == name and min(point) > 0  # 0 has no place on a logarithmic axis
        ]
        for name in dict.fromkeys(method.name for _, method in methods)
    }
    values = [value for of_one in points.values() for _, *pair in of_one for value in pair]
    if not values:
        return None
    ends = [min(values) / 1.25, max(values) * 1.25]
    scale = {"type": "log", "rangemode": "normal", "dtick": "D2" if ends[1] < 30 * ends[0] else 1}
    traces = [reference("equal", ends, ends), *(_dots(*each) for each in points.items() if each[1])]
    x, y = axis("sampled deviation of a logit", **scale), axis("analytic deviation", **scale)
    title = "Deviation of logits, analytic against sampled"
    return chart(traces, title, _TEXTS["figure"], x=x, y=y, height=420)


def _dots(name: str, points: Sequence[tuple[float, float, float]]) -> go.Scatter:
    texts = [
        hover(name, f"noise_std {std:.4g}", f"sampled {sampled:.4g}, analytic {analytic:.4g}")
        for std, sampled, analytic in points
    ]
    _, sampled, analytic = zip(*points, strict=True)
    place = _COLOURED.index(name) if name in _COLOURED else len(_COLOURED)
    marker = {"size": 6, "opacity": 0.75}
    return series(name, sampled, analytic, place, texts=texts, mode="markers", marker=marker)
