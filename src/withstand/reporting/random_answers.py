"""What the page says of a network whose answers are random: how it is scored, and attacked."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from withstand.reporting.old_figures import Figure, axis, finished, layout, series_style
from withstand.reporting.stochastic_schema import Sampling, Sweep, SweepLevel
from withstand.reporting.old_wording import count, epsilon_text, interval, percent

__all__ = ["RandomAnswersView", "view_random_answers"]


@dataclass(frozen=True)
class RandomAnswersView:
    """The section on random answers.

    Attributes:
        facts: How it is scored and attacked, name and value.
        figure: Attacked accuracy against draws a gradient; None where no sweep was made.
        verdict: Whether it has settled, in words; None where no sweep was made.
        levels: Of the sweep, ascending in draws.
        description: How it was found.
    """

    facts: Sequence[tuple[str, str]]
    figure: Figure | None
    verdict: str | None
    levels: Sequence[SweepLevel]
    description: str


def view_random_answers(found: Sampling) -> RandomAnswersView:
    """What the page shows of the draws behind predictions and gradients."""
    sweep = found.get("sweep")
    drawn = found["attack_samples"]
    levels = sorted(sweep["levels"], key=lambda level: level["num_samples"]) if sweep else []
    return RandomAnswersView(
        facts=[
            ("Draws a prediction", count(found["num_samples"])),
            ("Predictions an example", count(found["num_repeats"])),
            *([] if drawn is None else [("Draws an attack's gradient", count(drawn))]),
        ],
        figure=_figure(sweep, levels) if sweep and levels else None,
        verdict=_verdict(sweep, levels, drawn) if sweep and levels else None,
        levels=levels,
        description=found["description"].rstrip("."),
    )


def _verdict(sweep: Sweep, levels: Sequence[SweepLevel], chosen: int | None) -> str:
    """Whether more draws still find more."""
    first, last = levels[0], levels[-1]
    tolerance = f"{100 * sweep['tolerance']:.3g} points"
    course = (
        f"From {_draws(first['num_samples'])} a gradient to {last['num_samples']} the accuracy under "
        f"{sweep['attack']} at epsilon {epsilon_text(sweep['epsilon'])} goes from "
        f"{percent(first['accuracy'], first['total'])} to {percent(last['accuracy'], last['total'])}."
    )
    if sweep["has_settled"]:
        said = f"It has settled: two doublings of the draws together lower it by less than {tolerance}"
        average = "" if chosen is None else f" The attacks of this evaluation average {_draws(chosen)}."
        return f"{course} {said}.{average}"
    return (
        f"{course} It has not settled: the last two doublings lowered it by {tolerance} or more, so "
        "more draws may find more, and the attacked accuracies here are likely too high."
    )


def _draws(number: int) -> str:
    return "1 draw" if number == 1 else f"{number} draws"


def _figure(sweep: Sweep, levels: Sequence[SweepLevel]) -> Figure:
    draws = [level["num_samples"] for level in levels]
    trace = go.Scatter(
        name=html.escape(sweep["attack"]),
        x=draws,
        y=[level["accuracy"] for level in levels],
        error_y=_bars(levels),
        text=[
            f"<b>{_draws(level['num_samples'])} a gradient</b><br>"
            f"accuracy {percent(level['accuracy'], level['total'])}<br>95 % interval {interval(level)}"
            for level in levels
        ],
        hovertemplate="%{text}<extra></extra>",
        **series_style(0, "lines+markers"),
    )
    around = [math.log10(min(draws) / 1.25), math.log10(max(draws) * 1.25)]
    ticks = {"tickmode": "array", "tickvals": draws, "ticktext": [str(number) for number in draws]}
    x_axis = axis("draws of the weights a gradient") | {"type": "log", "rangemode": "normal", "range": around}
    top = min(1.04, max(0.05, 1.15 * max(level["upper"] for level in levels)))
    y_axis = axis("accuracy") | {"tickformat": ".0%", "range": [-0.02 * top, top]}
    figure = go.Figure([trace], layout(x_axis | ticks, y_axis, showlegend=False))
    caption = (
        f"Accuracy under {sweep['attack']} at epsilon {epsilon_text(sweep['epsilon'])} on the first "
        f"{count(sweep['num_examples'])} test examples, against how many draws of the weights each gradient "
        "is the mean of. Bars are 95 % intervals; the axis of draws is logarithmic."
    )
    return finished(figure, "Accuracy against draws a gradient", caption, 340)


def _bars(levels: Sequence[SweepLevel]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [level["upper"] - level["accuracy"] for level in levels],
        "arrayminus": [level["accuracy"] - level["lower"] for level in levels],
        "thickness": 1.5,
        "width": 5,
    }
