"""Analytic moments under noise, held against samples."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from markupsafe import Markup

from withstand.evaluation.analytic_results import Moments, MomentsLayer, MomentsLevel, MomentsMethod
from withstand.reporting.figures import axis, chart, hover, reference, series
from withstand.reporting.read import Run
from withstand.reporting.section import Cell, Figure, Prose, Section, Table
from withstand.reporting.wording import cell, count, duration, sentence

__all__ = ["PLACE", "section"]

PLACE = 30
_COLOURED = ("diagonal", "factored", "full")
_FEW_DIGITS = 1000
_MEANING = Markup(
    "The mean and standard deviation of each logit under Gaussian noise, computed without drawing any, "
    "against {draws} draws around each of {examples} test images. <b>Mean error</b> is the root mean square "
    "over images and classes, in sampled deviations of the logit; it holds the draws' own error, "
    "{error:.2g}. <b>Draws as good</b> is how many draws have a mean as far off; a draw takes {duration} "
    "here. <b>Speed-up</b> is the time of those draws divided by that of the analytic form: below 1, drawing "
    "is the faster way to a mean as good. Beside it the same against all {draws} draws."
)
_LOGITS = (
    "The logits. first-activation: the published form, exact through the first activation, means alone. "
    "diagonal: independent coordinates. factored: one shared factor a pixel, correlations to first order. "
    "full: whole covariance matrices."
)
_LOGITS_HEADER = (
    *("noise_std, form", "Mean error", "Std ratio, median", "5–95 %", "Time an image", "Draws as good"),
    *("Speed-up", "Against all"),
)
_BY_LAYER = (
    "By type of layer: how far its outputs are off with all that came before, and what it adds by itself "
    "(own): where its input is given its sampled means and deviations, with as much of the correlations as "
    "the form keeps."
)
_LAYERS = (
    "Layers at noise_std {}. Errors are in root mean square sampled deviations over images and coordinates, "
    "std ratio is analytic / sampled. Costs draws: how many draws through these layers take as long as the "
    "analytic rule."
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
    figure = _figure(levels)
    refused = {
        method.name: method.reason
        for level in levels
        for method in level.methods
        if method.reason is not None
    }
    logits = [_method_row(level, method) for level in levels for method in level.methods]
    layered = [level for level in reversed(levels) if level.layers]
    return Section(
        key="moments",
        title="Analytic moments under noise",
        tab="noise",
        prose=[Prose(_meaning(moments, levels[0]), "meaning", "How to read them.")],
        figures=[figure] if figure else [],
        tables=[
            Table("Analytic moments under noise", _LOGITS_HEADER, logits, _LOGITS, kind="compare"),
            *(_layers_table(level, is_first=place == 0) for place, level in enumerate(layered)),
        ],
        notes=[
            *(Prose(reason, "small", f"{name}.") for name, reason in refused.items()),
            Prose(sentence(moments.description), "small"),
        ],
    )


def _meaning(moments: Moments, level: MomentsLevel) -> str:
    return _MEANING.format(
        draws=count(moments.num_samples),
        examples=count(moments.num_examples),
        error=moments.standard_error,
        duration=duration(level.sample_seconds),
    )


def _method_row(level: MomentsLevel, method: MomentsMethod) -> list[Cell]:
    name = Cell(f"{level.noise_std:.4g}, {method.name}")
    if method.reason is not None:
        return [name, Cell("not tried", is_words=True, span=len(_LOGITS_HEADER) - 1)]
    ratio, seconds = method.std_ratio, method.seconds
    numbers = [
        _number(method.mean_error),
        cell(None) if ratio is None else f"{ratio.median:.3f}",
        cell(None) if ratio is None else f"{ratio.low:.3f}\N{EN DASH}{ratio.high:.3f}",
        cell(None) if seconds is None else duration(seconds),
        *map(_number, (method.matching_samples, method.speed_up, method.full_speed_up)),
    ]
    return [name, *map(Cell, numbers)]


def _layers_table(level: MomentsLevel, *, is_first: bool) -> Table:
    std = f"{level.noise_std:.4g}"
    rows = [row for layer in level.layers for row in _layer_rows(layer)]
    title, lead = f"Layers at noise_std {std}", _BY_LAYER if is_first else ""
    return Table(title, _LAYERS_HEADER, rows, _LAYERS.format(std), not is_first, kind="compare", lead=lead)


def _layer_rows(layer: MomentsLayer) -> list[list[str]]:
    several = f" \N{MULTIPLICATION SIGN} {layer.count}" if layer.count > 1 else ""
    rows = []
    for name, form in layer.forms.items():
        before, own = form.accumulated, form.own
        pairs = [(before.mean_error, own.mean_error), (before.std_error, own.std_error)]
        pairs += [(before.std_ratio, own.std_ratio)]
        numbers = [*(number for pair in pairs for number in pair), form.samples]
        rows.append([f"{layer.operation}{several}, {name}", *map(_number, numbers)])
    return rows


def _number(value: float | None) -> str:
    """With three digits, and nothing below a ten-thousandth, which is rounding here."""
    if value is None:
        return cell(None)
    if 0 < abs(value) < 1e-4:
        return "<\N{NO-BREAK SPACE}0.0001"
    return f"{value:.3g}" if abs(value) < _FEW_DIGITS else count(round(value))


def _figure(levels: Sequence[MomentsLevel]) -> Figure | None:
    """Analytic against sampled deviations of logits; None where there are none."""
    names = dict.fromkeys(method.name for level in levels for method in level.methods)
    traces = [trace for name in names if (trace := _dots(levels, name)).x]
    if not traces:
        return None
    values = [value for trace in traces for value in (*trace.x, *trace.y)]
    ends = [min(values) / 1.25, max(values) * 1.25]
    scale = {"type": "log", "rangemode": "normal", "dtick": "D2" if ends[1] < 30 * ends[0] else 1}
    caption = (
        "Each point is one logit of one image at one noise_std; on the dotted line the analytic deviation is "
        "the sampled one. Both axes are logarithmic."
    )
    return chart(
        [reference("equal", ends, ends), *traces],
        "Deviation of logits, analytic against sampled",
        caption,
        x=axis("sampled deviation of a logit", **scale),
        y=axis("analytic deviation", **scale),
        height=420,
    )


def _dots(levels: Sequence[MomentsLevel], name: str) -> go.Scatter:
    points = [
        (level.noise_std, sampled, analytic)
        for level in levels
        for method in level.methods
        if method.name == name
        for sampled, analytic in method.points
        if sampled > 0 and analytic > 0  # what is 0 has no place on a logarithmic axis
    ]
    texts = [
        hover(name, f"noise_std {std:.4g}", f"sampled {sampled:.4g}, analytic {analytic:.4g}")
        for std, sampled, analytic in points
    ]
    return series(
        name,
        [sampled for _, sampled, _ in points],
        [analytic for _, _, analytic in points],
        _COLOURED.index(name) if name in _COLOURED else len(_COLOURED),
        texts=texts,
        mode="markers",
        marker={"size": 6, "opacity": 0.75},
    )
