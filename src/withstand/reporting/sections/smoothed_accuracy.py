"""Randomised smoothing: a guarantee of another classifier, with a probability."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from withstand.core.writing import epsilon_text
from withstand.reporting.figures import SHARES, axis, chart, intervals_of, share_series
from withstand.reporting.formatting import cell, count, interval, measured, sentence, share_text
from withstand.reporting.read import Run
from withstand.reporting.section import PROSE, Figure, Prose, Section, Table
from withstand.reporting.table import chance_of, one, rows, select
from withstand.results import measurements
from withstand.results.measurements import ABSTENTION, SMOOTHED, SMOOTHED_CERTIFIED, Measurement

PLACE = 20
_RADII = {
    "Mean radius, ℓ₂": measurements.MEAN_SMOOTHED_RADIUS,
    "Median radius, ℓ₂": measurements.MEDIAN_SMOOTHED_RADIUS,
    "Largest radius, ℓ₂": measurements.LARGEST_SMOOTHED_RADIUS,
}
_TEXTS = PROSE["smoothing"]


def section(run: Run) -> Section | None:
    """What is certified of the smoothed classifier."""
    smoothing = run.results.smoothing if run.results else None
    accuracy, abstained = one(run.table, SMOOTHED), one(run.table, ABSTENTION)
    if smoothing is None or accuracy is None or abstained is None:
        return None
    points = rows(select(run.table, SMOOTHED_CERTIFIED).sort_values("level"))
    probability = f"{100 * (1 - smoothing.failure_probability):.6g}\N{NO-BREAK SPACE}%"
    note = Prose(
        _TEXTS["note"].format(probability=probability), "note", "Another classifier, another guarantee."
    )
    accuracy_text = Markup(_TEXTS["accuracy"]).format(
        accuracy=share_text(accuracy), interval=interval(accuracy), abstained=share_text(abstained)
    )
    radii = {title: one(run.table, measure) for title, measure in _RADII.items()}
    return Section(
        key="smoothing",
        title="Randomised smoothing",
        tab="proven",
        prose=[note, Prose(accuracy_text)],
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
    header = ["ε", "Certified", "95 % interval", "Examples"]
    body = [[epsilon_text(row.level), *measured(row)] for row in points]
    caption = _TEXTS["table"].format(probability=probability)
    return Table("The same numbers as a table", header, body, caption, is_folded=True)


def _figure(points: Sequence[Measurement], probability: str, chance: float | None) -> Figure:
    """Certified accuracy against epsilon; the first point is the accuracy, unless 0 was asked for."""
    drawn = points if points[1].level > 0 else points[1:]
    promise = f"certified with probability {probability} an example"
    trace = share_series(
        f"smoothed classifier, each example with probability {probability}",
        drawn,
        3,
        lambda share: [f"ε = {epsilon_text(share.level)}", f"{promise}: {share_text(share)}"],
        line={"dash": "dot", "shape": "vh"},
        error_y=intervals_of(drawn),
    )
    x, y = axis("ε (ℓ₂, data in [0, 1])"), axis("share of test examples", **SHARES)
    title = "Certified accuracy of the smoothed classifier, ℓ₂"
    caption = _TEXTS["figure"].format(probability=probability)
    return chart([trace], title, caption, x=x, y=y, height=400, chance=chance)
