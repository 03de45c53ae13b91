"""What the page says of a model's answers under Gaussian noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from withstand.reporting.old_figures import (
    SHARES,
    Figure,
    axis,
    draw_chance,
    finished,
    layout,
    legend_height,
    series_style,
)
from withstand.reporting.schema import Accuracy, Noise, NoiseLevel, NoiseShares
from withstand.reporting.old_wording import interval, percent

__all__ = ["NOISE_AXIS", "NoiseView", "view_noise"]

NOISE_AXIS = "noise_std (images in [0, 1])"
_FEW_LEVELS = 6


@dataclass(frozen=True)
class NoiseView:
    """The section on noise.

    Attributes:
        figure: The four curves.
        few: Some of the levels, spread from the first to the last.
        levels: All of them.
        largest: The last noise_std, as a text.
        area: Under each curve, divided by the range.
        mean: Of each curve over the levels.
        description: How it was measured.
        has_draws: Whether there are several draws an image.
    """

    figure: Figure
    few: Sequence[NoiseLevel]
    levels: Sequence[NoiseLevel]
    largest: str
    area: NoiseShares
    mean: NoiseShares
    description: str
    has_draws: bool


def view_noise(found: Noise, chance: float | None) -> NoiseView | None:
    """What the page shows of the answers under noise.

    Args:
        found: By the evaluation.
        chance: The accuracy of guessing, drawn as a dotted line; None draws none.

    Returns:
        None where there are no levels.
    """
    levels = sorted(found["levels"], key=lambda level: level["noise_std"])
    if not levels:
        return None
    last = len(levels) - 1
    spread = {round(last * number / (_FEW_LEVELS - 1)) for number in range(_FEW_LEVELS)}
    return NoiseView(
        figure=_figure(levels, chance),
        few=[level for number, level in enumerate(levels) if number in spread],
        levels=levels,
        largest=f"{levels[-1]['noise_std']:.4g}",
        area=found["area"],
        mean=found["mean"],
        description=found["description"],
        has_draws=found["num_draws"] > 1,
    )


def _figure(levels: Sequence[NoiseLevel], chance: float | None) -> Figure:
    stds = [level["noise_std"] for level in levels]
    traces = [
        _trace("accuracy", 0, stds, [level["accuracy"] for level in levels]),
        _trace("agreement", 1, stds, [level["agreement"] for level in levels]),
        _trace("accuracy, clipped", 0, stds, [level["clipped_accuracy"] for level in levels]),
        _trace("agreement, clipped", 1, stds, [level["clipped_agreement"] for level in levels]),
    ]
    figure = go.Figure(traces, layout(axis(NOISE_AXIS), axis("share of test images") | SHARES))
    draw_chance(figure, chance)
    caption = (
        "Accuracy against the labels, and agreement with the prediction without noise, as the noise grows. "
        "Dashed curves with open markers are of noisy images clipped to [0, 1]. The table holds each point's "
        "interval."
    )
    return finished(figure, "Answers under Gaussian noise", caption, 380 + legend_height(len(traces)))


def _trace(name: str, index: int, stds: Sequence[float], shares: Sequence[Accuracy]) -> go.Scatter:
    return go.Scatter(
        name=name,
        x=list(stds),
        y=[share["accuracy"] for share in shares],
        text=[
            f"<b>{name}</b><br>noise_std {std:.4g}: {percent(share['accuracy'], share['total'])}<br>"
            f"95 % interval {interval(share)}"
            for std, share in zip(stds, shares, strict=True)
        ],
        hovertemplate="%{text}<extra></extra>",
        **_look(index, is_clipped=name.endswith("clipped")),
    )


def _look(index: int, *, is_clipped: bool) -> dict[str, Any]:
    """One colour and marker a measure; dashed and open where the noisy image is clipped."""
    look = series_style(index, "lines+markers")
    symbol = look["marker"]["symbol"]
    return look | {
        "line": look["line"] | {"dash": "dash" if is_clipped else "solid"},
        "marker": look["marker"] | {"size": 6, "symbol": f"{symbol}-open" if is_clipped else symbol},
    }
