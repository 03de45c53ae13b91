"""How unsure a network of random weights is, and of what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from withstand.reporting.figures import FILL, axis, chart, hover, series
from withstand.reporting.read import Run
from withstand.reporting.section import Cell, Figure, Prose, Section, Table
from withstand.reporting.wording import cell, count, percent, sentence
from withstand.results.random_answers import Uncertainty, UncertaintySet

PLACE = 40
_MOST_DRAWN = 5  # outlines that can be told apart
_MOST_MARKERS = 6  # of one outline
_FEW_SETS = 12
_MEASURES = {
    "entropy": (
        "Predictive entropy",
        "Entropy of the mean prediction over all draws: how unsure the answer is, for whatever reason.",
    ),
    "expected_entropy": (
        "Expected entropy",
        "Mean entropy of the single draws: what each draw by itself is unsure of.",
    ),
    "mutual_information": (
        "Mutual information",
        "Predictive less expected entropy: how far the draws disagree, which more data could mend.",
    ),
}
_MEANING = (
    "Entropies are in nats, from 0 for a sure answer to {:.3f} for knowing nothing, over {} draws of the "
    "weights an image. Predictive entropy is that of the mean prediction. Expected entropy is the mean over "
    "the draws, each by itself. What is left between them is mutual information: how far the draws disagree. "
    "AUROC tells how well predictive entropy alone tells a set from the clean one: 0.5 not at all, 1 wholly."
)
_TABLE = (
    "Means over the images of each set, entropies in nats. Calibration error is the expected difference "
    "between confidence and accuracy, in [0, 1]."
)


def section(run: Run) -> Section | None:
    """Entropies of each set of images; None where there are no sets."""
    uncertainty = run.results.uncertainty if run.results else None
    if uncertainty is None or not uncertainty.sets:
        return None
    meaning = _MEANING.format(math.log(uncertainty.num_classes), count(uncertainty.num_samples))
    titles = [title for title, _ in _MEASURES.values()]
    header = ["Set", "Kind", "Images", "Accuracy", "Calibration error", *titles, "AUROC"]
    rows = [_row(each) for each in uncertainty.sets]
    return Section(
        key="uncertainty",
        title="Uncertainty",
        tab="answers",
        prose=[Prose(meaning, "meaning", "How to read it.")],
        figures=[_figure(uncertainty, measure) for measure in _MEASURES],
        tables=[Table("Uncertainty", header, rows, _TABLE, is_tall=len(rows) > _FEW_SETS, kind="compare")],
        notes=[Prose(sentence(uncertainty.description), "small")],
        across=3,
    )


def _row(of: UncertaintySet) -> list[Cell]:
    accuracy = cell(None) if of.accuracy is None else percent(of.accuracy, of.num_examples)
    numbers = (of.calibration_error, *(of.means[measure] for measure in _MEASURES), of.auroc)
    texts = (cell(None) if number is None else f"{number:.3f}" for number in numbers)
    return [
        Cell(of.name),
        Cell(of.kind, is_words=True),
        *map(Cell, (count(of.num_examples), accuracy, *texts)),
    ]


def _drawn(sets: Sequence[UncertaintySet]) -> list[UncertaintySet]:
    """Those whose outlines are drawn: the clean one, the first attack's at some epsilons, other data."""
    clean = [each for each in sets if each.kind == "clean"]
    other = [each for each in sets if each.kind == "out-of-distribution"][: _MOST_DRAWN - 2]
    attacked = [each for each in sets if each.kind == "attacked"]
    attacked = [each for each in attacked if _attack(each) == _attack(attacked[0])]
    room, last = _MOST_DRAWN - len(clean) - len(other), len(attacked) - 1
    if last >= room:
        spread = {round(last * place / (room - 1)) for place in range(room)} if room > 1 else {last}
        attacked = [attacked[place] for place in sorted(spread)]
    return [*clean, *attacked, *other]


def _attack(of: UncertaintySet) -> str:
    """The attack's name, without its epsilon."""
    return of.name.rpartition("@")[0]


def _figure(uncertainty: Uncertainty, measure: str) -> Figure:
    """A histogram's outline for each set drawn, over logarithmic shares.

    What is empty lies below the axis, at half its floor, since 0 has no place on it.
    """
    title, caption = _MEASURES[measure]
    drawn, edges = _drawn(uncertainty.sets), uncertainty.edges
    floor = 0.5 / max(each.num_examples for each in drawn)
    caption += " Shares are logarithmic; where an outline falls to the floor, there is no image."
    if len(drawn) < len(uncertainty.sets):
        caption += f" Drawn are {len(drawn)} of {len(uncertainty.sets)} sets; the table has all."
    held = [
        high
        for each in drawn
        for high, number in zip(edges[1:], each.histograms[measure], strict=True)
        if number
    ]
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
    heights, texts = (
        [*heights, *heights[-1:]],
        [*texts, *texts[-1:]],
    )  # the last bin's step ends at an edge too
    return series(of.name, edges, heights, index, texts=texts, cliponaxis=True, **look)
