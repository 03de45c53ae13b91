"""What the page says of randomised smoothing: a guarantee of another classifier, with a probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from withstand.reporting.old_figures import SHARES, Figure, axis, draw_chance, finished, layout, series_style
from withstand.reporting.measures_schema import Smoothing
from withstand.reporting.schema import Accuracy, CurvePoint
from withstand.reporting.old_wording import cell, count, epsilon_text, interval, percent

__all__ = ["SmoothingView", "view_smoothing"]

_NAME = "smoothed classifier"


@dataclass(frozen=True)
class SmoothingView:
    """The section on smoothing.

    Attributes:
        figure: What is certified of the smoothed classifier; None where no epsilon was asked for.
        points: The same, ascending in epsilon.
        facts: Name and value of how it was drawn, and of its radii.
        probability: With which the guarantee holds for each example, as a text.
        accuracy: Of the smoothed classifier; abstaining is wrong.
        abstained: The share on which it abstains.
        description: How it was measured.
    """

    figure: Figure | None
    points: Sequence[CurvePoint]
    facts: Sequence[tuple[str, str]]
    probability: str
    accuracy: Accuracy
    abstained: Accuracy
    description: str


def view_smoothing(found: Smoothing, chance: float | None) -> SmoothingView:
    """What the page shows of the smoothed classifier.

    Args:
        found: By the evaluation.
        chance: The accuracy of guessing, drawn as a dotted line; None draws none.
    """
    points = sorted(found["curve"], key=lambda point: point["epsilon"])
    probability = f"{100 * (1 - found['failure_probability']):.6g}\N{NO-BREAK SPACE}%"
    radius = found["radius"]
    return SmoothingView(
        figure=_figure(found, points, probability, chance) if points else None,
        points=points,
        facts=[
            ("Noise, noise_std", cell(found["noise_std"])),
            ("Draws to choose the class", count(found["num_selection"])),
            ("Draws to bound its probability", count(found["num_estimation"])),
            ("Test examples", count(found["num_examples"])),
            ("Mean radius, ℓ2", cell(radius["mean"])),
            ("Median radius, ℓ2", cell(radius["median"])),
            ("Largest radius, ℓ2", cell(radius["largest"])),
        ],
        probability=probability,
        accuracy=found["accuracy"],
        abstained=found["abstained"],
        description=found["description"].rstrip("."),
    )


def _figure(found: Smoothing, points: Sequence[CurvePoint], probability: str, chance: float | None) -> Figure:
    start = [] if points[0]["epsilon"] <= 0 else [(0.0, found["accuracy"])]
    drawn = [*start, *((point["epsilon"], point) for point in points)]
    look = series_style(3, "lines+markers")
    trace = go.Scatter(
        name=f"{_NAME}, each example with probability {probability}",
        x=[epsilon for epsilon, _ in drawn],
        y=[share["accuracy"] for _, share in drawn],
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [share["upper"] - share["accuracy"] for _, share in drawn],
            "arrayminus": [share["accuracy"] - share["lower"] for _, share in drawn],
            "thickness": 1.5,
            "width": 5,
        },
        text=[
            f"<b>{_NAME}</b><br>epsilon {epsilon_text(epsilon)}<br>certified with probability {probability} "
            f"an example: {percent(share['accuracy'], share['total'])}<br>95 % interval {interval(share)}"
            for epsilon, share in drawn
        ],
        hovertemplate="%{text}<extra></extra>",
        **look | {"line": look["line"] | {"dash": "dot", "shape": "vh"}},
    )
    shape = layout(axis("epsilon (ℓ2, images in [0, 1])"), axis("share of test examples") | SHARES)
    figure = go.Figure([trace], shape | {"showlegend": True})
    draw_chance(figure, chance)
    caption = (
        f"Certified accuracy of the smoothed classifier in ℓ2. It holds with probability {probability} for "
        "each example and says nothing of the network without its noise. Bars are 95 % intervals; epsilon 0 "
        "is the smoothed classifier's accuracy. Between two markers the share of the right one is certified, "
        "at least."
    )
    return finished(figure, "Certified accuracy of the smoothed classifier, ℓ2", caption, 400)
