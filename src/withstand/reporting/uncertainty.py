"""What the page says of how unsure a network of random weights is, and of what."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from withstand.reporting.old_figures import Figure, axis, finished, layout, legend_height, series_style
from withstand.reporting.stochastic_schema import Histogram, Typical, Uncertainty, UncertaintySet
from withstand.reporting.old_wording import cell, count, percent

__all__ = ["SetRow", "UncertaintyView", "view_uncertainty"]

_MOST_DRAWN = 5  # outlines that can be told apart
_MOST_MARKERS = 6  # of one outline
_SHADE = "rgba(138,143,152,0.22)"
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


@dataclass(frozen=True)
class SetRow:
    """One set of images, its numbers as texts."""

    name: str
    kind: str
    numbers: Sequence[str]


@dataclass(frozen=True)
class UncertaintyView:
    """The section on uncertainty.

    Attributes:
        figures: The histograms, one a measure.
        rows: One a set.
        num_samples: Draws, as a text.
        largest: The entropy of knowing nothing, in nats, as a text.
        description: How it was measured.
    """

    figures: Sequence[Figure]
    rows: Sequence[SetRow]
    num_samples: str
    largest: str
    description: str


def view_uncertainty(found: Uncertainty) -> UncertaintyView | None:
    """What the page shows of the uncertainty; None where there are no sets."""
    if not found["sets"]:
        return None
    drawn = _drawn(found["sets"])
    return UncertaintyView(
        figures=[_figure(drawn, measure, len(found["sets"])) for measure in _MEASURES],
        rows=[_row(each) for each in found["sets"]],
        num_samples=count(found["num_samples"]),
        largest=f"{math.log(found['num_classes']):.3f}",
        description=found["description"].rstrip("."),
    )


def _row(of: UncertaintySet) -> SetRow:
    accuracy, error = of["accuracy"], of["calibration_error"]
    numbers = [
        count(of["num_examples"]),
        cell(None) if accuracy is None else percent(accuracy, of["num_examples"]),
        cell(None) if error is None else f"{error:.3f}",
        *(f"{_typical(of, measure)['mean']:.3f}" for measure in _MEASURES),
        cell(None) if of["auroc"] is None else f"{of['auroc']:.3f}",
    ]
    return SetRow(of["name"], of["kind"], numbers)


def _drawn(sets: Sequence[UncertaintySet]) -> list[UncertaintySet]:
    """Those whose outlines are drawn: the clean one, the first attack's at some epsilons, other data."""
    clean = [each for each in sets if each["kind"] == "clean"]
    other = [each for each in sets if each["kind"] == "out-of-distribution"][: _MOST_DRAWN - 2]
    attacked = [each for each in sets if each["kind"] == "attacked"]
    attacked = [each for each in attacked if _attack(each) == _attack(attacked[0])]
    room = _MOST_DRAWN - len(clean) - len(other)
    last = len(attacked) - 1
    if last >= room:
        spread = {round(last * place / (room - 1)) for place in range(room)} if room > 1 else {last}
        attacked = [each for place, each in enumerate(attacked) if place in spread]
    return [*clean, *attacked, *other]


def _attack(of: UncertaintySet) -> str:
    """The attack's name, without its epsilon."""
    return of["name"].rpartition("@")[0]


def _figure(sets: Sequence[UncertaintySet], measure: str, num_sets: int) -> Figure:
    title, caption = _MEASURES[measure]
    floor = 0.5 / max(each["num_examples"] for each in sets)
    traces = [_outline(each, measure, index, floor / 2) for index, each in enumerate(sets)]
    ticks = [10.0**power for power in range(math.ceil(math.log10(floor)), 1)]
    y_axis = axis("share of images") | {
        "type": "log",
        "range": [math.log10(floor), 0.08],
        "tickmode": "array",
        "tickvals": ticks,
        "ticktext": [f"{100 * tick:.6g} %" for tick in ticks],
    }
    x_axis = axis(f"{title.lower()} (nats)") | {"range": [0, _reach(sets, measure)]}
    figure = go.Figure(traces, layout(x_axis, y_axis))
    caption += " Shares are logarithmic; where an outline falls to the floor, there is no image."
    if len(sets) < num_sets:
        caption += f" Drawn are {len(sets)} of {num_sets} sets; the table has all."
    return finished(figure, title, caption, 320 + legend_height(len(traces)))


def _reach(sets: Sequence[UncertaintySet], measure: str) -> float:
    """The upper edge of the last bin that holds an image of any set; a fifth of the range at least."""
    edges = [
        edge
        for each in sets
        for edge, number in zip(
            each["histogram"]["edges"][1:], _counts(each["histogram"], measure), strict=False
        )
        if number
    ]
    return max([*edges, *(each["histogram"]["edges"][-1] / 5 for each in sets)])


def _outline(of: UncertaintySet, measure: str, index: int, floor: float) -> go.Scatter:
    """A histogram's outline, each bin a step, some of them marked; the clean set's is filled.

    What is empty lies at ``floor``, below the axis, since 0 has no place on a logarithmic one.
    """
    edges, counts = of["histogram"]["edges"], _counts(of["histogram"], measure)
    shares = [number / of["num_examples"] for number in counts]
    ends = [f"{low:.3g} to {high:.3g} nats" for low, high in pairwise(edges)]
    texts = [
        f"<b>{html.escape(of['name'])}</b><br>{end}: "
        f"{percent(share, of['num_examples'])}, {count(number)} images"
        for end, share, number in zip(ends, shares, counts, strict=False)
    ]
    look = series_style(index, "lines+markers")
    is_clean = of["kind"] == "clean"
    fill: dict[str, Any] = {"fill": "tozeroy", "fillcolor": _SHADE} if is_clean else {}
    heights = [max(share, floor) for share in shares]
    return go.Scatter(
        name=html.escape(of["name"]),
        x=list(edges),
        y=[*heights, *heights[-1:]],
        text=[*texts, *texts[-1:]],
        hovertemplate="%{text}<extra></extra>",
        **look
        | fill
        | {
            "cliponaxis": True,
            "line": look["line"] | {"shape": "hv", "width": 1.8},
            "marker": look["marker"] | {"maxdisplayed": _MOST_MARKERS},
        },
    )


def _counts(histogram: Histogram, measure: str) -> list[int]:
    if measure == "entropy":
        return histogram["entropy"]
    return histogram["expected_entropy" if measure == "expected_entropy" else "mutual_information"]


def _typical(of: UncertaintySet, measure: str) -> Typical:
    if measure == "entropy":
        return of["entropy"]
    return of["expected_entropy" if measure == "expected_entropy" else "mutual_information"]
