"""The answers of several runs under Gaussian noise, beside each other."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
from withstand.reporting.noise import NOISE_AXIS
from withstand.reporting.old_read import Run
from withstand.reporting.schema import Metrics, Noise, NoiseShares
from withstand.reporting.seeds import Group, Mean, groups_of, mean_of, mean_text
from withstand.reporting.old_wording import noise_scale

__all__ = ["ComparedNoise", "NoiseCell", "compare_noise", "noise_of"]

_MOST_LINES = 12


@dataclass(frozen=True)
class NoiseCell:
    """What the table says of one run: mean and area of its curves."""

    mean: NoiseShares
    area: NoiseShares
    total: int


@dataclass(frozen=True)
class ComparedNoise:
    """Several runs under noise.

    Attributes:
        scales: Over what each block of columns sums up, as texts.
        cells: Label -> one entry a scale, None where that run was not measured so.
        figure: Accuracy against noise_std, of each run or of each group of seeds; None where no group has
            all its runs measured alike.
    """

    scales: Sequence[str]
    cells: Mapping[str, Sequence[NoiseCell | None]]
    figure: Figure | None


@dataclass(frozen=True)
class _Line:
    name: str
    shares: Mapping[float, Mean]
    mean: float
    scale: str
    seeds: str = ""


def compare_noise(
    runs: Sequence[Run], measured: Mapping[str, Metrics], chance: float | None, *, are_many: bool
) -> ComparedNoise | None:
    """What the page shows of several runs under noise; None where none was measured.

    Args:
        runs: All of them.
        measured: Label of a run -> its metrics.
        chance: The accuracy of guessing, drawn as a dotted line; None draws none.
        are_many: Draw means over seeds, not single runs.
    """
    found = {label: noise_of(metrics) for label, metrics in measured.items()}
    known = {label: noise for label, noise in found.items() if noise}
    if not known:
        return None
    scales = list(dict.fromkeys(map(noise_scale, known.values())))
    cells = {label: [_cell(noise, scale) for scale in scales] for label, noise in found.items()}
    groups = groups_of(runs)
    lines = (
        [line for group in groups if (line := _line_of_group(group))]
        if are_many
        else [_line_of_run(label, noise) for label, noise in known.items()]
    )
    return ComparedNoise(scales, cells, _figure(lines, chance) if lines else None)


def noise_of(metrics: Metrics) -> Noise | None:
    """What an evaluation found under noise; None where it has no level."""
    noise = metrics.get("noise")
    return noise if noise and noise["levels"] else None


def _cell(noise: Noise | None, scale: str) -> NoiseCell | None:
    if noise is None or noise_scale(noise) != scale:
        return None
    return NoiseCell(noise["mean"], noise["area"], noise["levels"][0]["accuracy"]["total"])


def _line_of_run(label: str, noise: Noise) -> _Line:
    shares = {level["noise_std"]: mean_of([level["accuracy"]]) for level in noise["levels"]}
    return _Line(label, dict(sorted(shares.items())), noise["mean"]["accuracy"], noise_scale(noise))


def _line_of_group(group: Group) -> _Line | None:
    if group.noise is None:
        return None
    seeds = f", mean of {group.num_seeds}" if group.num_seeds > 1 else ", one run"
    mean = sum(group.noise.mean) / len(group.noise.mean)
    return _Line(group.label, group.noise.accuracy, mean, group.noise.scale, seeds)


def _figure(lines: Sequence[_Line], chance: float | None) -> Figure:
    best = sorted(lines, key=lambda line: line.mean, reverse=True)[:_MOST_LINES]
    shown = [line for line in lines if line in best]
    traces = [_trace(line, index) for index, line in enumerate(shown)]
    figure = go.Figure(traces, layout(axis(NOISE_AXIS), axis("accuracy") | SHARES))
    draw_chance(figure, chance)
    caption = "Accuracy against the labels as Gaussian noise grows, without clipping."
    if any(line.seeds for line in shown):
        caption += " Runs that differ in their seeds alone are one curve, of their mean."
    if len({line.scale for line in shown}) > 1:
        caption += " Not all were measured alike; the table says how."
    if len(shown) < len(lines):
        caption += f" Shown are the {len(shown)} of {len(lines)} with the highest mean; the table has all."
    return finished(figure, "Accuracy under Gaussian noise", caption, 400 + legend_height(len(shown)))


def _trace(line: _Line, index: int) -> go.Scatter:
    look = series_style(index, "lines+markers")
    name = html.escape(line.name)
    return go.Scatter(
        name=name,
        x=list(line.shares),
        y=[share.value for share in line.shares.values()],
        text=[
            f"<b>{name}</b>{line.seeds}<br>noise_std {std:.4g}: {mean_text(share)}"
            for std, share in line.shares.items()
        ],
        hovertemplate="%{text}<extra></extra>",
        **look | {"marker": look["marker"] | {"size": 6}},
    )
