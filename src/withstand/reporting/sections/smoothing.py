"""Randomised smoothing: a guarantee of another classifier, with a probability."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from withstand.reporting.figures import SHARES, axis, chart, intervals_of, share_series
from withstand.reporting.read import Run
from withstand.reporting.section import Figure, Prose, Section, Table
from withstand.reporting.table import chance_of, one, rows, select
from withstand.reporting.wording import cell, count, counted, epsilon_text, interval, sentence, share_text
from withstand.results.measurements import (
    ABSTENTION,
    LARGEST_SMOOTHED_RADIUS,
    MEAN_SMOOTHED_RADIUS,
    MEDIAN_SMOOTHED_RADIUS,
    SMOOTHED,
    SMOOTHED_CERTIFIED,
    Measurement,
)

PLACE = 20
_RADII = {
    "Mean radius, ℓ2": MEAN_SMOOTHED_RADIUS,
    "Median radius, ℓ2": MEDIAN_SMOOTHED_RADIUS,
    "Largest radius, ℓ2": LARGEST_SMOOTHED_RADIUS,
}
_NOTE = (
    "What is certified here is the smoothed classifier, which answers with the class that this network names "
    "most often under Gaussian noise. It holds with probability {} for each example, not for certain, and in "
    "ℓ2 only. It says nothing of the network without that noise, so it does not add to the certificates of "
    "the network itself."
)
_ACCURACY = Markup(
    "The smoothed classifier is right on <b>{}</b> (95 % interval {}) and abstains on {}, which counts as "
    "wrong."
)
_TABLE = "Certified accuracy of the smoothed classifier in ℓ2, with probability {} an example."
_FIGURE = (
    "Certified accuracy of the smoothed classifier in ℓ2. It holds with probability {} for each example and "
    "says nothing of the network without its noise. Bars are 95 % intervals; epsilon 0 is the smoothed "
    "classifier's accuracy. Between two markers the share of the right one is certified, at least."
)


def section(run: Run) -> Section | None:
    """What is certified of the smoothed classifier."""
    smoothing = run.results.smoothing if run.results else None
    accuracy, abstained = one(run.table, SMOOTHED), one(run.table, ABSTENTION)
    if smoothing is None or accuracy is None or abstained is None:
        return None
    points = rows(select(run.table, SMOOTHED_CERTIFIED).sort_values("level"))
    probability = f"{100 * (1 - smoothing.failure_probability):.6g}\N{NO-BREAK SPACE}%"
    said = _ACCURACY.format(share_text(accuracy), interval(accuracy), share_text(abstained))
    note = Prose(_NOTE.format(probability), "note", "Another classifier, another guarantee.")
    radii = {title: one(run.table, measure) for title, measure in _RADII.items()}
    return Section(
        key="smoothing",
        title="Randomised smoothing",
        tab="proven",
        prose=[note, Prose(said)],
        facts=[
            ("Noise, noise_std", cell(smoothing.noise_std)),
            ("Draws to choose the class", count(smoothing.num_selection)),
            ("Draws to bound its probability", count(smoothing.num_estimation)),
            ("Test examples", count(accuracy.total or 0)),
            *((title, cell(radius.value)) for title, radius in radii.items() if radius),
        ],
        figures=[_figure([accuracy, *points], probability, chance_of([run]))] if points else [],
        tables=[_table(points, probability)] if points else [],
        notes=[Prose(sentence(smoothing.description), "small")],
        is_brief=True,
        measures=[SMOOTHED, ABSTENTION, SMOOTHED_CERTIFIED, *_RADII.values()],
    )


def _table(points: Sequence[Measurement], probability: str) -> Table:
    header = ["Epsilon", "Certified", "95 % interval", "Examples"]
    body = [[epsilon_text(each.level), share_text(each), interval(each), counted(each)] for each in points]
    return Table("The same numbers as a table", header, body, _TABLE.format(probability), is_folded=True)


def _figure(points: Sequence[Measurement], probability: str, chance: float | None) -> Figure:
    """Certified accuracy against epsilon; the first point is the accuracy, unless 0 was asked for."""
    drawn = points if points[1].level > 0 else points[1:]
    promise = f"certified with probability {probability} an example"
    trace = share_series(
        f"smoothed classifier, each example with probability {probability}",
        drawn,
        3,
        lambda each: [f"epsilon {epsilon_text(each.level)}", f"{promise}: {share_text(each)}"],
        line={"dash": "dot", "shape": "vh"},
        error_y=intervals_of(drawn),
    )
    x, y = axis("epsilon (ℓ2, images in [0, 1])"), axis("share of test examples", **SHARES)
    title, caption = "Certified accuracy of the smoothed classifier, ℓ2", _FIGURE.format(probability)
    return chart([trace], title, caption, x=x, y=y, height=400, chance=chance)
