"""Calibration: whether confidence is what accuracy bears out."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from withstand.reporting.figures import COLOURS, UNIT, axis, bars, chart, hover, reference, series
from withstand.reporting.read import Run
from withstand.reporting.section import Figure, Prose, Section, Table
from withstand.reporting.table import one
from withstand.reporting.wording import cell, count, percent
from withstand.results.measurements import CALIBRATION_ERROR
from withstand.results.results import Bin

PLACE = 30
_PERCENT = UNIT | {"tickformat": ".0%"}
_SUMMARY = Markup(
    "The expected calibration error on clean images is <b>{:.4f}</b> over {} bins: the mean distance between "
    "confidence and accuracy, each bin weighted by its examples. {}"
)
_TABLE = "Bins that hold clean test examples. The gap is confidence less accuracy."
_RELIABILITY = (
    "Accuracy against mean confidence of the examples in each bin; a larger marker is of more examples. "
    "Below the dashed line the network is surer than it is right."
)
_COUNTS = "How many examples the network answers with so much confidence."

_Filled = Sequence[tuple[Bin, float, float]]  # with its confidence and accuracy


def section(run: Run) -> Section | None:
    """Confidence beside accuracy; None where no bin holds an example."""
    bins = run.results.calibration if run.results else []
    filled = [
        (each, each.confidence, each.accuracy)
        for each in bins
        if each.count and each.confidence is not None and each.accuracy is not None
    ]
    error = one(run.table, CALIBRATION_ERROR)
    if not filled or error is None:
        return None
    header = ["Confidence", "Examples", "Mean confidence", "Accuracy", "Gap"]
    return Section(
        key="calibration",
        title="Calibration",
        tab="answers",
        prose=[Prose(_SUMMARY.format(error.value, len(bins), _verdict(filled)))],
        figures=[_reliability(filled), _counts(bins)],
        tables=[
            Table("The same numbers as a table", header, list(map(_row, filled)), _TABLE, is_folded=True)
        ],
        across=2,
        measures=[CALIBRATION_ERROR],
    )


def _verdict(filled: _Filled) -> str:
    """Whether the network is too sure."""
    total = sum(each.count for each, _, _ in filled)
    gap = sum(each.count * (confidence - accuracy) for each, confidence, accuracy in filled) / total
    if abs(gap) < 0.005:
        return "On the whole confidence and accuracy agree within half a point."
    how = "surer than it is right" if gap > 0 else "less sure than it is right"
    return f"On the whole the network is {how}, by {100 * abs(gap):.1f} points."


def _span(of: Bin) -> str:
    return f"{of.lower:.3g} to {of.upper:.3g}"


def _row(filled: tuple[Bin, float, float]) -> list[str]:
    of, confidence, accuracy = filled
    gap = f"{100 * (confidence - accuracy):+.1f} points".replace("-", "\N{MINUS SIGN}")
    return [_span(of), count(of.count), cell(confidence), percent(accuracy, of.count), gap]


def _told(of: Bin, *more: str) -> str:
    return hover(f"confidence {_span(of)}", f"{count(of.count)} examples", *more)


def _reliability(filled: _Filled) -> Figure:
    """Accuracy against confidence, a dot a bin."""
    bins, confidences, accuracies = zip(*filled, strict=True)
    largest = max(each.count for each in bins)
    texts = [
        _told(each, f"mean confidence {percent(confidence)}", f"accuracy {percent(accuracy)}")
        for each, confidence, accuracy in filled
    ]
    sizes = {"size": [6 + 12 * (each.count / largest) ** 0.5 for each in bins]}
    dots = series("clean test examples", confidences, accuracies, 0, texts=texts, marker=sizes)
    traces = [reference("confidence equals accuracy", [0, 1], [0, 1], dash="dash"), dots]
    x, y = axis("mean confidence", **_PERCENT), axis("accuracy", **_PERCENT)
    return chart(traces, "Reliability", _RELIABILITY, x=x, y=y, height=400)


def _counts(bins: Sequence[Bin]) -> Figure:
    """How many examples each bin holds."""
    centres, numbers = [(each.lower + each.upper) / 2 for each in bins], [each.count for each in bins]
    widths = [0.9 * (each.upper - each.lower) for each in bins]
    trace = bars("examples", centres, numbers, COLOURS[0], list(map(_told, bins)), width=widths)
    x, y = axis("confidence", **_PERCENT), axis("test examples", rangemode="tozero")
    layout = {"showlegend": False}
    return chart([trace], "Examples in each bin", _COUNTS, x=x, y=y, height=400, layout=layout)
