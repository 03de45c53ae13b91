"""Analytic moments under noise, compared with samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

from withstand.reporting.figures import axis, chart, hover, reference, series
from withstand.reporting.formatting import cell, count, duration, sentence
from withstand.reporting.read import Run
from withstand.reporting.section import PROSE, Cell, Figure, Prose, Section, Table
from withstand.results.analytic import MomentsLevel, MomentsMethod
from withstand.results.measurements import MOMENTS_ERROR, MOMENTS_SPEED_UP

PLACE = 30
_COLOURED = ("diagonal", "factored", "full")
_FEW_DIGITS = 1000
_TEXTS = PROSE["moments"]
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
    logits = [_method_row(level, method) for level, method in methods]
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
    points = pd.DataFrame(
        [(method.name, level.noise_std, *point) for level, method in methods for point in method.points],
        columns=["name", "noise_std", "sampled", "analytic"],
    )
    points = points[(points[["sampled", "analytic"]] > 0).all(axis=1)]  # 0 has no place on the axes
    if points.empty:
        return None
    values = points[["sampled", "analytic"]].to_numpy(dtype=float)
    ends = [float(values.min()) / 1.25, float(values.max()) * 1.25]
    scale = {"type": "log", "rangemode": "normal", "dtick": "D2" if ends[1] < 30 * ends[0] else 1}
    dots = [_dots(str(name), of) for name, of in points.groupby("name", sort=False)]
    x, y = axis("sampled deviation of a logit", **scale), axis("analytic deviation", **scale)
    title = "Deviation of logits, analytic against sampled"
    return chart([reference("equal", ends, ends), *dots], title, _TEXTS["figure"], x=x, y=y, height=420)


def _dots(name: str, points: pd.DataFrame) -> go.Scatter:
    texts = [
        hover(name, f"noise_std {std:.4g}", f"sampled {sampled:.4g}, analytic {analytic:.4g}")
        for _, std, sampled, analytic in points.itertuples(index=False)
    ]
    place = _COLOURED.index(name) if name in _COLOURED else len(_COLOURED)
    look: dict[str, Any] = {"mode": "markers", "marker": {"size": 6, "opacity": 0.75}}
    return series(name, points.sampled, points.analytic, place, texts=texts, **look)
