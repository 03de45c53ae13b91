"""The curves of several runs in one figure: accuracy under attack, certified, under noise; training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import pandas as pd

from withstand.reporting.compare.comparison import Comparison, records
from withstand.reporting.compare.groups import Group, mean_text, means_of, seeds_text
from withstand.reporting.compare.seeds import MOST_CURVES
from withstand.reporting.curves import Curve, accuracy_figure, strongest_curve, tightest_curve
from withstand.reporting.figures import SHARES, axis, chart, hover, series
from withstand.reporting.history import panels_of_runs, training_figure
from withstand.reporting.naming import what_differs
from withstand.reporting.section import Figure, Section
from withstand.reporting.sections import accuracy
from withstand.reporting.sections.noise_accuracy import NOISE_AXIS
from withstand.reporting.table import chance_of, noise_scale, norms, rows, select
from withstand.results.measurements import NOISE_ACCURACY, Measurement

_MOST_LINES = 12


def accuracy_section(compared: Comparison) -> Section | None:
    """Accuracy against epsilon of each run, or of many runs the means of groups; None where there is none."""
    curves = _mean_curves(compared) if compared.are_many else _run_curves(compared)
    chance = chance_of(compared.runs)
    figures = [accuracy_figure(of_norm, norm, chance) for norm, of_norm in curves.items()]
    is_certified = any(run.results and run.results.certificates for run in compared.runs)
    title = accuracy.title(is_certified=is_certified)
    return Section("compare-accuracy", title, "summary", figures=figures) if figures else None


def _run_curves(compared: Comparison) -> dict[str, list[Curve]]:
    """By norm, the strongest attack and the tightest certificate of each run."""
    curves: dict[str, list[Curve]] = {}
    evaluated = [place for place, run in enumerate(compared.runs) if run.results]
    are_certified = any(run.results and run.results.certificates for run in compared.runs)
    for series_of, place in enumerate(evaluated):
        run, label = compared.runs[place], compared.legends[place]
        for norm in norms(run):
            drawn = [
                strongest_curve(run, norm, f"{label}, attacked" if are_certified else label),
                *tightest_curve(run, norm, label),
            ]
            curves.setdefault(norm, []).extend(replace(curve, series=series_of) for curve in drawn)
    return curves


def _mean_curves(compared: Comparison) -> dict[str, list[Curve]]:
    """By norm, the means of each group from clean accuracy on; none where they are too many to tell apart."""
    if len(compared.groups) > MOST_CURVES:
        return {}
    means = compared.means[compared.means.kind.isin(["clean", "attacked"])]
    names = what_differs([group.label for group in compared.groups])
    return {
        norm: [
            Curve(name, _measurements(means.loc[[group.members[0]]], norm))
            for name, group in zip(names, compared.groups, strict=True)
        ]
        for norm in means.norm[means.kind == "attacked"].unique()
    }


def _measurements(means: pd.DataFrame, norm: str) -> list[Measurement]:
    return [
        Measurement(
            mean.aspect, seeds_text(mean.num_seeds), norm, mean.level, mean.value, mean.lower, mean.upper
        )
        for mean in records(means[means.norm.isin(["", norm])])
    ]


def noise_section(compared: Comparison) -> Section | None:
    """Accuracy against noise_std of each run, or of many the means of groups; None where there is none."""
    points = pd.DataFrame([row for place in range(len(compared.runs)) for row in _noise(compared, place)])
    if points.empty:
        return None
    single = [Group(label, {}, [place]) for place, label in enumerate(compared.legends)]
    groups = compared.groups if compared.are_many else single
    means = means_of(points, groups)
    drawn = [group for group in groups if group.members[0] in means.index]
    figures = [_noise_figure(groups, means, compared)] if drawn else []
    return Section("compare-noise", "Accuracy under noise", "summary", figures=figures) if drawn else None


def _noise(compared: Comparison, place: int) -> Iterator[dict[str, Any]]:
    """A run's accuracies, as means are made of; only those of one scale are the same aspect."""
    run = compared.runs[place]
    scale = noise_scale(run)
    for row in rows(select(run.table, NOISE_ACCURACY, by="unclipped").sort_values("level")):
        aspect = f"{row.level:.9g} of {scale}"
        yield asdict(row) | {"run": place, "kind": scale, "aspect": aspect}


def _noise_figure(groups: Sequence[Group], means: pd.DataFrame, compared: Comparison) -> Figure:
    best = means.value.groupby(level=0, sort=False).mean().nlargest(_MOST_LINES).index
    shown = [group for group in groups if group.members[0] in best]
    caption = "Accuracy against the labels as Gaussian noise grows, without clipping."
    if compared.are_many:
        caption += " Runs that differ in their seeds alone are one curve, of their mean."
    if means.loc[best, "kind"].nunique() > 1:
        caption += " Not all were measured alike; the table says how."
    number = means.index.nunique()
    if len(shown) < number:
        caption += f" Shown are the {len(shown)} of {number} with the highest mean; the table has all."
    return chart(
        [_line(group, means.loc[[group.members[0]]], groups.index(group)) for group in shown],
        "Accuracy under Gaussian noise",
        caption,
        x=axis(NOISE_AXIS),
        y=axis("accuracy", **SHARES),
        height=400,
        chance=chance_of(compared.runs),
    )


def _line(group: Group, means: pd.DataFrame, number: int) -> Any:
    seeds = seeds_text(len(group.members))
    texts = [
        hover(group.label, seeds, f"noise_std {mean.level:.4g}: {mean_text(mean)}") for mean in records(means)
    ]
    return series(group.label, list(means.level), list(means.value), number, texts=texts, marker={"size": 6})


def training_section(compared: Comparison) -> Section | None:
    """The columns of training that several runs have; None where there is none."""
    histories = {
        label: run.history for label, run in zip(compared.legends, compared.runs, strict=True) if run.history
    }
    figures = [training_figure(panel) for panel in panels_of_runs(histories)]
    fold = f"The curves of all {len(compared.runs)} runs"
    section = Section("compare-training", "Training", "summary", figures=figures, across=2, fold=fold)
    return section if figures else None
