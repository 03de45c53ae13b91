"""Calibration: whether confidence is what accuracy bears out."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from withstand.evaluation.measurements import CALIBRATION_ERROR
from withstand.evaluation.results import Bin
from withstand.reporting.figures import COLOURS, UNIT, axis, bars, chart, hover, reference, series
from withstand.reporting.read import Run
from withstand.reporting.section import Figure, Prose, Section, Table
from withstand.reporting.table import one
from withstand.reporting.wording import cell, count, percent

__all__ = ["PLACE", "section"]

PLACE = 30
_PERCENT = UNIT | {"tickformat": ".0%"}
_SUMMARY = Markup(
    "The expected calibration error on clean images is <b>{:.4f}</b> over {} bins: the mean distance between "
    "confidence and accuracy, each bin weighted by its examples. {}"
)

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
    table_rows = [
        [
            _span(each),
            count(each.count),
            cell(confidence),
            percent(accuracy, each.count),
            _gap(confidence - accuracy),
        ]
        for each, confidence, accuracy in filled
    ]
    header = ["Confidence", "Examples", "Mean confidence", "Accuracy", "Gap"]
    caption = "Bins that hold clean test examples. The gap is confidence less accuracy."
    return Section(
        key="calibration",
        title="Calibration",
        tab="answers",
        prose=[Prose(_SUMMARY.format(error.value, len(bins), _verdict(filled)))],
        figures=[_reliability(filled), _counts(bins)],
        tables=[Table("The same numbers as a table", header, table_rows, caption, is_folded=True)],
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


def _gap(gap: float) -> str:
    return f"{100 * gap:+.1f} points".replace("-", "\N{MINUS SIGN}")


def _reliability(filled: _Filled) -> Figure:
    """Accuracy against confidence, a dot a bin."""
    largest = max(each.count for each, _, _ in filled)
    texts = [
        hover(
            f"confidence {_span(each)}",
            f"{count(each.count)} examples",
            f"mean confidence {percent(confidence)}",
            f"accuracy {percent(accuracy)}",
        )
        for each, confidence, accuracy in filled
    ]
    points = series(
        "clean test examples",
        [confidence for _, confidence, _ in filled],
        [accuracy for _, _, accuracy in filled],
        0,
        texts=texts,
        marker={"size": [6 + 12 * (each.count / largest) ** 0.5 for each, _, _ in filled]},
    )
    caption = (
        "Accuracy against mean confidence of the examples in each bin; a larger marker is of more examples. "
        "Below the dashed line the network is surer than it is right."
    )
    return chart(
        [reference("confidence equals accuracy", [0, 1], [0, 1], dash="dash"), points],
        "Reliability",
        caption,
        x=axis("mean confidence", **_PERCENT),
        y=axis("accuracy", **_PERCENT),
        height=400,
    )


def _counts(bins: Sequence[Bin]) -> Figure:
    """How many examples each bin holds."""
    trace = bars(
        "examples",
        [(each.lower + each.upper) / 2 for each in bins],
        [each.count for each in bins],
        COLOURS[0],
        [hover(f"confidence {_span(each)}", f"{count(each.count)} examples") for each in bins],
        width=[0.9 * (each.upper - each.lower) for each in bins],
    )
    return chart(
        [trace],
        "Examples in each bin",
        "How many examples the network answers with so much confidence.",
        x=axis("confidence", **_PERCENT),
        y=axis("test examples", rangemode="tozero"),
        height=400,
        layout={"showlegend": False},
    )
