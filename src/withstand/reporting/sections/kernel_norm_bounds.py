"""Kernel norms: bounds from below and from above, side by side."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import replace

import plotly.graph_objects as go
from markupsafe import Markup

from withstand.reporting.figures import CATEGORIES, axis, chart, hover, logarithmic, reference, series
from withstand.reporting.formatting import cell, count, sentence
from withstand.reporting.read import Run
from withstand.reporting.section import PROSE, Figure, Prose, Section, Table
from withstand.results.analytic import KernelNormsOf

PLACE = 30
_SYMBOLS = {
    "gradient": "circle-open",
    "perturbation": "square-open",
    "deformation": "diamond-open",
    "spectral": "triangle-left",
}
_MOST_CLASSES = 30
_HEADER = (
    *("Class", "Gradient", "Perturbation", "Deformation", "Change"),
    *("Largest lower", "Spectral upper", "Upper / lower"),
)
_TEXTS = PROSE["kernel_norms"]


def section(run: Run) -> Section | None:
    """The bounds of each class logit's Lipschitz constant, and the norms of each layer."""
    norms = run.results.kernel_norms if run.results else None
    if norms is None:
        return None
    prose = [Prose(Markup(_TEXTS["meaning"]), "meaning", "How to read them.")]
    prose += [Prose(norms.reason, "note", "No upper bound.")] if norms.reason else []
    body = [_row(bounds) for bounds in (replace(norms.largest, name="Largest"), *norms.classes)]
    caption = _TEXTS["table"].format(examples=count(norms.num_examples))
    tables = [Table("Kernel norms", _HEADER, body, caption, kind="compare")]
    if norms.layers:
        header = ["Layer", "Reshaped kernel", "Operator", "Operator / kernel"]
        pairs = {bounds.name: (bounds.kernel_norm, bounds.operator_norm) for bounds in norms.layers}
        layers = [[name, *map(cell, pair), _quotient(*reversed(pair))] for name, pair in pairs.items()]
        tables.append(Table("The norms of each layer", header, layers, _TEXTS["layers"], is_folded=True))
    figure = _figure(norms.classes)
    return Section(
        key="kernel-norms",
        title="Kernel norms",
        tab="proven",
        prose=prose,
        figures=[figure] if figure else [],
        tables=tables,
        notes=[Prose(sentence(norms.description), "small")],
    )


def _row(bounds: KernelNormsOf) -> list[str]:
    lower = _lower(bounds)
    changes = bounds.deformation, bounds.deformation_change
    numbers = [bounds.gradient, bounds.perturbation, *changes, lower, bounds.spectral]
    return [bounds.name, *map(cell, numbers), _quotient(bounds.spectral, lower)]


def _lower(bounds: KernelNormsOf) -> float:
    return max(bounds.gradient, bounds.perturbation, bounds.deformation or 0.0)


def _quotient(upper: float | None, lower: float | None) -> str:
    return cell(upper / lower if upper is not None and lower else None)


def _figure(classes: Sequence[KernelNormsOf]) -> Figure | None:
    """The bounds as dots; None where there is nothing above 0 to draw."""
    largest = sorted(range(len(classes)), key=lambda index: _lower(classes[index]), reverse=True)
    shown = [classes[index] for index in sorted(largest[:_MOST_CLASSES])]
    dots = [trace for index, bound in enumerate(_SYMBOLS) if any((trace := _dots(shown, bound, index)).x)]
    if not dots:
        return None
    span = _span(shown)
    caption = _TEXTS["figure"] + (" The true constant lies on the line between them." if span else "")
    caption += " The axis is logarithmic, so that what is 0 is not drawn."
    if len(shown) < len(classes):
        caption += f" Shown are the {len(shown)} classes with the largest lower bounds."
    scale = logarithmic([value for trace in dots for value in trace.x if value])
    x = axis("logits a unit of ℓ₂ distance, data in [0, 1]", **scale)
    y = axis("class", **CATEGORIES, showgrid=False)
    title = "Bounds of each class logit's Lipschitz constant"
    return chart([*span, *dots], title, caption, x=x, y=y, height=130 + 24 * len(shown))


def _span(classes: Sequence[KernelNormsOf]) -> list[go.Scatter]:
    """From the largest lower bound to the upper one, a line a class; nothing where no class has both."""
    known = [
        (html.escape(bounds.name), lower, bounds.spectral)
        for bounds in classes
        if (lower := _lower(bounds)) and bounds.spectral
    ]
    ends = [end for _, lower, upper in known for end in (lower, upper, None)]
    names = [end for name, *_ in known for end in (name, name, None)]
    return [reference("where the constant lies", ends, names, width=3, dash="solid")] if known else []


def _dots(classes: Sequence[KernelNormsOf], bound: str, index: int) -> go.Scatter:
    symbol = _SYMBOLS[bound]
    outline = {"width": 2 if symbol.endswith("-open") else 0}
    legend = "spectral, from above" if bound == "spectral" else bound
    values = [getattr(bounds, bound) or None for bounds in classes]
    names = [html.escape(bounds.name) for bounds in classes]
    texts = [
        hover(bounds.name, f"{legend}: {cell(value)}") for bounds, value in zip(classes, values, strict=True)
    ]
    marker = {"symbol": symbol, "size": 10, "line": outline}
    return series(legend, values, names, index, texts=texts, mode="markers", marker=marker)
