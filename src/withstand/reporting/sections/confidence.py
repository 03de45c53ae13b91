"""How sure a network is: calibration, and of random weights how unsure it is of what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from withstand.reporting.figures import COLOURS, FILL, UNIT, axis, bars, chart, hover, reference, series
from withstand.reporting.read import Run
from withstand.reporting.section import Cell, Figure, Prose, Section, Table, paragraphs
from withstand.reporting.table import one, spread
from withstand.reporting.wording import cell, count, percent, sentence
from withstand.results.measurements import CALIBRATION_ERROR
from withstand.results.random_answers import Uncertainty, UncertaintySet
from withstand.results.results import Bin

PLACE = 30
_OF_CALIBRATION, _OF_UNCERTAINTY = paragraphs("calibration"), paragraphs("uncertainty")
_PERCENT = UNIT | {"tickformat": ".0%"}
_MOST_DRAWN = 5  # outlines that can be told apart
_MOST_MARKERS = 6  # of one outline
_FEW_SETS = 12
_MEASURES = {
    "entropy": "Predictive entropy",
    "expected_entropy": "Expected entropy",
    "mutual_information": "Mutual information",
}

_Filled = Sequence[tuple[Bin, float, float]]  # with its confidence and accuracy


def section(run: Run) -> list[Section | None]:
    """What the page shows of confidence, and of its spread over draws of the weights."""
    return [calibration(run), uncertainty(run)]


def calibration(run: Run) -> Section | None:
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
    summary = Markup(_OF_CALIBRATION["summary"])
    header, caption = (
        ["Confidence", "Examples", "Mean confidence", "Accuracy", "Gap"],
        _OF_CALIBRATION["table"],
    )
    rows = list(map(_bin_row, filled))
    return Section(
        key="calibration",
        title="Calibration",
        tab="answers",
        prose=[Prose(summary.format(error=error.value, bins=len(bins), verdict=_verdict(filled)))],
        figures=[_reliability(filled), _counts(bins)],
        tables=[Table("The same numbers as a table", header, rows, caption, is_folded=True)],
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


def _bin_row(filled: tuple[Bin, float, float]) -> list[str]:
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
    return chart(traces, "Reliability", _OF_CALIBRATION["reliability"], x=x, y=y, height=400)


def _counts(bins: Sequence[Bin]) -> Figure:
    """How many examples each bin holds."""
    centres, numbers = [(each.lower + each.upper) / 2 for each in bins], [each.count for each in bins]
    widths = [0.9 * (each.upper - each.lower) for each in bins]
    trace = bars("examples", centres, numbers, COLOURS[0], list(map(_told, bins)), width=widths)
    x, y = axis("confidence", **_PERCENT), axis("test examples", rangemode="tozero")
    title, layout = "Examples in each bin", {"showlegend": False}
    return chart([trace], title, _OF_CALIBRATION["counts"], x=x, y=y, height=400, layout=layout)


def uncertainty(run: Run) -> Section | None:
    """Entropies of each set of images; None where there are no sets."""
    found = run.results.uncertainty if run.results else None
    if found is None or not found.sets:
        return None
    meaning = _OF_UNCERTAINTY["meaning"].format(
        most=math.log(found.num_classes), draws=count(found.num_samples)
    )
    header = ["Set", "Kind", "Images", "Accuracy", "Calibration error", *_MEASURES.values(), "AUROC"]
    rows, caption = list(map(_set_row, found.sets)), _OF_UNCERTAINTY["table"]
    return Section(
        key="uncertainty",
        title="Uncertainty",
        tab="answers",
        prose=[Prose(meaning, "meaning", "How to read it.")],
        figures=[_entropies(found, measure) for measure in _MEASURES],
        tables=[Table("Uncertainty", header, rows, caption, is_tall=len(rows) > _FEW_SETS, kind="compare")],
        notes=[Prose(sentence(found.description), "small")],
        across=3,
    )


def _set_row(of: UncertaintySet) -> list[Cell]:
    accuracy = cell(None) if of.accuracy is None else percent(of.accuracy, of.num_examples)
    numbers = (of.calibration_error, *(of.means[measure] for measure in _MEASURES), of.auroc)
    texts = (cell(None) if number is None else f"{number:.3f}" for number in numbers)
    counted = map(Cell, (count(of.num_examples), accuracy, *texts))
    return [Cell(of.name), Cell(of.kind, is_words=True), *counted]


def _drawn(sets: Sequence[UncertaintySet]) -> list[UncertaintySet]:
    """Those whose outlines are drawn: the clean one, the first attack's at some epsilons, other data."""
    clean = [each for each in sets if each.kind == "clean"]
    other = [each for each in sets if each.kind == "out-of-distribution"][: _MOST_DRAWN - 2]
    attacked = [each for each in sets if each.kind == "attacked"]
    # The name ends in the epsilon, behind the attack's.
    attacked = [
        each for each in attacked if each.name.rpartition("@")[0] == attacked[0].name.rpartition("@")[0]
    ]
    room = _MOST_DRAWN - len(clean) - len(other)
    shown = spread(len(attacked), max(2, room))[-room:]  # the last one where there is room for one
    return [*clean, *(attacked[place] for place in shown), *other]


def _entropies(of: Uncertainty, measure: str) -> Figure:
    """A histogram's outline for each set drawn, over logarithmic shares.

    What is empty lies below the axis, at half its floor, since 0 has no place on it.
    """
    title, caption = _MEASURES[measure], f"{_OF_UNCERTAINTY[measure]} {_OF_UNCERTAINTY['figure']}"
    drawn, edges = _drawn(of.sets), of.edges
    floor = 0.5 / max(each.num_examples for each in drawn)
    if len(drawn) < len(of.sets):
        caption += f" Drawn are {len(drawn)} of {len(of.sets)} sets; the table has all."
    counts = [zip(edges[1:], each.histograms[measure], strict=True) for each in drawn]
    held = [high for of_set in counts for high, number in of_set if number]
    x = axis(f"{title.lower()} (nats)", range=[0, max([*held, edges[-1] / 5])])
    ticks = [10.0**power for power in range(math.ceil(math.log10(floor)), 1)]
    scale = {"type": "log", "range": [math.log10(floor), 0.08], "tickmode": "array", "tickvals": ticks}
    y = axis("share of images", **scale, ticktext=[f"{100 * tick:.6g} %" for tick in ticks])
    traces = [_outline(each, edges, measure, index, floor / 2) for index, each in enumerate(drawn)]
    return chart(traces, title, caption, x=x, y=y, height=320)


def _outline(
    of: UncertaintySet, edges: Sequence[float], measure: str, index: int, floor: float
) -> go.Scatter:
    """Each bin a step, some of them marked; the clean set's outline is filled."""
    numbers, total = of.histograms[measure], of.num_examples
    texts = [
        hover(
            of.name, f"{low:.3g} to {high:.3g} nats: {percent(number / total, total)}, {count(number)} images"
        )
        for (low, high), number in zip(pairwise(edges), numbers, strict=True)
    ]
    heights = [max(number / total, floor) for number in numbers]
    look: dict[str, Any] = {"line": {"shape": "hv", "width": 1.8}, "marker": {"maxdisplayed": _MOST_MARKERS}}
    look |= FILL if of.kind == "clean" else {}
    texts, heights = [*texts, *texts[-1:]], [*heights, *heights[-1:]]  # the last step ends at an edge too
    return series(of.name, edges, heights, index, texts=texts, cliponaxis=True, **look)
