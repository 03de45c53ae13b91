"""How sure a network is: calibration, and of random weights how unsure it is of what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

from withstand.core.writing import percent
from withstand.reporting.figures import (
    COLOURS,
    FILL,
    SHARES,
    UNIT,
    axis,
    bars,
    chart,
    hover,
    reference,
    series,
)
from withstand.reporting.formatting import cell, count, sentence
from withstand.reporting.read import Run
from withstand.reporting.section import PROSE, Cell, Figure, Prose, Section, Table
from withstand.reporting.table import one, spread
from withstand.results.measurements import CALIBRATION_ERROR
from withstand.results.random_answers import Uncertainty, UncertaintySet
from withstand.results.results import Bin

PLACE = 30
_OF_CALIBRATION, _OF_UNCERTAINTY = PROSE["calibration"], PROSE["uncertainty"]
_PERCENT = SHARES | UNIT
_MOST_DRAWN = 5  # outlines that a reader can distinguish
_MOST_MARKERS = 6  # of one outline
_FEW_SETS = 12
_MEASURES = {
    "entropy": "Predictive entropy",
    "expected_entropy": "Expected entropy",
    "mutual_information": "Mutual information",
}


def section(run: Run) -> list[Section | None]:
    """What the page shows of confidence, and of its spread over draws of the weights."""
    return [calibration(run), uncertainty(run)]


def calibration(run: Run) -> Section | None:
    """Confidence beside accuracy; None where no bin holds an example."""
    bin_results = run.results.calibration if run.results else []
    bins = pd.DataFrame(
        [asdict(bin_result) for bin_result in bin_results], columns=[field.name for field in fields(Bin)]
    )
    filled, error = bins[bins["count"] > 0].dropna(), one(run.table, CALIBRATION_ERROR)
    if filled.empty or error is None:
        return None
    summary, caption = Markup(_OF_CALIBRATION["summary"]), _OF_CALIBRATION["table"]
    header = ["Confidence", "Examples", "Mean confidence", "Accuracy", "Gap"]
    rows = [_bin_row(row) for row in filled.itertuples()]
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


def _verdict(filled: pd.DataFrame) -> str:
    """Whether the network is too sure."""
    gap = float(np.average(filled.confidence - filled.accuracy, weights=filled["count"]))
    if abs(gap) < 0.005:
        return "On the whole confidence and accuracy agree within half a point."
    how = "surer than it is correct" if gap > 0 else "less sure than it is correct"
    return f"On the whole the network is {how}, by {100 * abs(gap):.1f} points."


def _bin_row(of: Any) -> list[str]:
    gap = f"{100 * (of.confidence - of.accuracy):+.1f} points".replace("-", "\N{MINUS SIGN}")
    return [_span(of), count(of.count), cell(of.confidence), percent(of.accuracy), gap]


def _span(of: Any) -> str:
    return f"{of.lower:.3g} to {of.upper:.3g}"


def _bin_hover(of: Any, *more: str) -> str:
    return hover(f"confidence {_span(of)}", f"{count(of.count)} examples", *more)


def _reliability(filled: pd.DataFrame) -> Figure:
    """Accuracy against confidence, a dot a bin."""
    rows: list[Any] = list(filled.itertuples())
    texts = [
        _bin_hover(row, f"mean confidence {percent(row.confidence)}", f"accuracy {percent(row.accuracy)}")
        for row in rows
    ]
    sizes = {"size": list(6 + 12 * (filled["count"] / filled["count"].max()) ** 0.5)}
    dots = series("clean test examples", filled.confidence, filled.accuracy, 0, texts=texts, marker=sizes)
    traces = [reference("confidence equals accuracy", [0, 1], [0, 1], dash="dash"), dots]
    x, y = axis("mean confidence", **_PERCENT), axis("accuracy", **_PERCENT)
    return chart(traces, "Reliability", _OF_CALIBRATION["reliability"], x=x, y=y, height=400)


def _counts(bins: pd.DataFrame) -> Figure:
    """How many examples each bin holds."""
    centres, widths = (bins.lower + bins.upper) / 2, list(0.9 * (bins.upper - bins.lower))
    texts = [_bin_hover(row) for row in bins.itertuples()]
    trace = bars("examples", centres, bins["count"], COLOURS[0], texts, width=widths)
    x, y = axis("confidence", **_PERCENT), axis("test examples", rangemode="tozero")
    title, layout = "Examples in each bin", {"showlegend": False}
    return chart([trace], title, _OF_CALIBRATION["counts"], x=x, y=y, height=400, layout=layout)


def uncertainty(run: Run) -> Section | None:
    """Entropies of each set of images; None where there are no sets."""
    results = run.results.uncertainty if run.results else None
    if results is None or not results.sets:
        return None
    meaning = _OF_UNCERTAINTY["meaning"].format(
        most=math.log(results.num_classes), draws=count(results.num_samples)
    )
    header = ["Set", "Kind", "Images", "Accuracy", "Calibration error", *_MEASURES.values(), "AUROC"]
    rows, caption = list(map(_set_row, results.sets)), _OF_UNCERTAINTY["table"]
    return Section(
        key="uncertainty",
        title="Uncertainty",
        tab="answers",
        prose=[Prose(meaning, "meaning", "How to read it.")],
        figures=[_entropies(results, measure) for measure in _MEASURES],
        tables=[Table("Uncertainty", header, rows, caption, is_tall=len(rows) > _FEW_SETS, kind="compare")],
        notes=[Prose(sentence(results.description), "small")],
        across=3,
    )


def _set_row(of: UncertaintySet) -> list[Cell]:
    accuracy = cell(None) if of.accuracy is None else percent(of.accuracy)
    numbers = (of.calibration_error, *(of.means[measure] for measure in _MEASURES), of.auroc)
    texts = (cell(None) if number is None else f"{number:.3f}" for number in numbers)
    counted = map(Cell, (count(of.num_examples), accuracy, *texts))
    return [Cell(of.name), Cell(of.kind, is_words=True), *counted]


def _drawn(sets: Sequence[UncertaintySet]) -> list[UncertaintySet]:
    """Those whose outlines are drawn: the clean one, the first attack's at some epsilons, other data."""
    clean = [image_set for image_set in sets if image_set.kind == "clean"]
    other = [image_set for image_set in sets if image_set.kind == "out-of-distribution"][: _MOST_DRAWN - 2]
    attacked = [image_set for image_set in sets if image_set.kind == "attacked"]
    # The name ends in the epsilon, behind the attack's.
    attacked = [
        image_set
        for image_set in attacked
        if image_set.name.rpartition("@")[0] == attacked[0].name.rpartition("@")[0]
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
    floor = 0.5 / max(image_set.num_examples for image_set in drawn)
    if len(drawn) < len(of.sets):
        caption += f" Drawn are {len(drawn)} of {len(of.sets)} sets; the table has all."
    counts = [zip(edges[1:], image_set.histograms[measure], strict=True) for image_set in drawn]
    held = [high for of_set in counts for high, number in of_set if number]
    x = axis(f"{title.lower()} (nats)", range=[0, max([*held, edges[-1] / 5])])
    ticks = [10.0**power for power in range(math.ceil(math.log10(floor)), 1)]
    scale = {"type": "log", "range": [math.log10(floor), 0.08], "tickmode": "array", "tickvals": ticks}
    y = axis("share of images", **scale, ticktext=[f"{100 * tick:.6g} %" for tick in ticks])
    traces = [_outline(image_set, edges, measure, index, floor / 2) for index, image_set in enumerate(drawn)]
    return chart(traces, title, caption, x=x, y=y, height=320)


def _outline(
    of: UncertaintySet, edges: Sequence[float], measure: str, index: int, floor: float
) -> go.Scatter:
    """Each bin a step, some of them marked; the clean set's outline is filled."""
    numbers, total = of.histograms[measure], of.num_examples
    texts = [
        hover(of.name, f"{low:.3g} to {high:.3g} nats: {percent(number / total)}, {count(number)} images")
        for (low, high), number in zip(pairwise(edges), numbers, strict=True)
    ]
    heights = [max(number / total, floor) for number in numbers]
    look: dict[str, Any] = {"line": {"shape": "hv", "width": 1.8}, "marker": {"maxdisplayed": _MOST_MARKERS}}
    look |= FILL if of.kind == "clean" else {}
    texts, heights = [*texts, *texts[-1:]], [*heights, *heights[-1:]]  # the last step ends at an edge too
    return series(of.name, edges, heights, index, texts=texts, cliponaxis=True, **look)
