"""Accuracy against epsilon, attacked and certified."""

from __future__ import annotations

import html
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import plotly.graph_objects as go

from withstand.core.writing import epsilon_text, norm_text
from withstand.reporting.figures import FILL, SHARES, axis, chart, hover, intervals_of, series
from withstand.reporting.formatting import interval, share_text
from withstand.reporting.read import Run
from withstand.reporting.section import PROSE, Figure
from withstand.reporting.table import clean, method_name, rows, select, strongest
from withstand.results.measurements import ATTACKED, CERTIFIED, Measurement, radius_column
from withstand.results.results import CertificateInfo

_MOST_STEPS = 250
_MOST_TICKS = 7
_TEXTS = PROSE["accuracy"]


@dataclass(frozen=True)
class Curve:
    """Accuracy against epsilon in one norm, from the clean accuracy at epsilon 0 on."""

    name: str
    points: Sequence[Measurement]  # ascending in epsilon; by is the attack or the certificate
    steps: Sequence[tuple[float, float]] = ()  # (epsilon, share certified there), one a radius, ascending
    is_certified: bool = False
    series: int | None = None  # curves of one number share colour and marker; None is its place


def attacked_curves(run: Run, norm: str) -> list[Curve]:
    """One curve an attack in a norm."""
    attacked = select(run.table, ATTACKED, norm=norm)
    return [
        Curve(name, _from_clean(run, rows(attacked[attacked.by == name]))) for name in attacked.by.unique()
    ]


def strongest_curve(run: Run, norm: str, name: str) -> Curve:
    """The curve of the strongest attack at each epsilon of a norm."""
    return Curve(name, _from_clean(run, [row for row in strongest(run) if row.norm == norm]))


def certified_curves(run: Run, norm: str) -> list[Curve]:
    """One curve a certificate in a norm."""
    infos = _certificates(run, norm)
    names = [_legend(run, info) for info in infos]
    return [
        _certified(run, info, name if names.count(name) == 1 else info.name)
        for info, name in zip(infos, names, strict=True)
    ]


def tightest_curve(run: Run, norm: str, label: str) -> list[Curve]:
    """A run's certified curve beside those of other runs, of its tightest method; none where it has none."""
    tightest = sorted(_certificates(run, norm), key=lambda info: info.method != "best")[:1]
    return [_certified(run, info, f"{label}, {_legend(run, info)}") for info in tightest]


def _certificates(run: Run, norm: str) -> list[CertificateInfo]:
    return [info for info in run.results.certificates if info.norm == norm] if run.results else []


def _legend(run: Run, info: CertificateInfo) -> str:
    return f"certified ({method_name(run.results, info.name)})"


def _certified(run: Run, info: CertificateInfo, name: str) -> Curve:
    certified = rows(select(run.table, CERTIFIED, by=info.name, norm=info.norm))
    points = [replace(row, by=_legend(run, info)) for row in certified]
    steps = _steps(run.radii.get(radius_column(info.name), []))
    return Curve(name, _from_clean(run, points), steps, is_certified=True)


def _from_clean(run: Run, points: Sequence[Measurement]) -> list[Measurement]:
    ascending = sorted((row for row in points if row.level > 0), key=lambda row: row.level)
    return [replace(clean(run), by="clean"), *ascending]


def _steps(radii: Sequence[float]) -> list[tuple[float, float]]:
    """The share of examples whose radius reaches an epsilon, at so many epsilons as can be seen.

    Between two of them the line says what is certified at the larger one, never more.
    """
    if not radii:
        return []
    ordered = sorted(radii)
    number = len(ordered)
    chosen = [*ordered[:: max(1, number // _MOST_STEPS)], ordered[-1]]
    reached = {radius: 1 - bisect_left(ordered, radius) / number for radius in chosen}
    steps = [(epsilon, share) for epsilon, share in reached.items() if epsilon > 0]
    return [(0.0, steps[0][1]), *steps, (steps[-1][0], 0.0)] if steps else []


def accuracy_figure(curves: Sequence[Curve], norm: str, chance: float | None) -> Figure:
    """Accuracy against epsilon, with each point's interval as an error bar.

    Args:
        curves: At least one, each from epsilon 0 on.
        norm: The norm that epsilon is measured in.
        chance: The accuracy of guessing, drawn as a dotted line; None draws none.
    """
    sign = norm_text(norm)
    certified = [curve for curve in curves if curve.is_certified]
    caption = f"Accuracy against ε in {sign}. Bars are 95 % intervals; ε = 0 is clean accuracy."
    if certified:
        caption += f" {_TEXTS['curves_certified']}"
    if any(not curve.steps for curve in certified):
        caption += f" {_TEXTS['curves_without_radii']}"
    return chart(
        [
            trace
            for place, curve in enumerate(curves)
            for trace in _traces(
                curve, place if curve.series is None else curve.series, is_filled=certified == [curve]
            )
        ],
        f"Accuracy against ε, {sign}",
        caption,
        x=axis(f"ε ({sign}, data in [0, 1])", **_epsilon_ticks(curves)),
        y=axis("accuracy", **SHARES),
        height=400,
        chance=chance,
    )


def _epsilon_ticks(curves: Sequence[Curve]) -> dict[str, Any]:
    """Ticks at the epsilons measured, where they are few and written as shares of 255."""
    epsilons = sorted({row.level for curve in curves for row in curve.points})
    texts = [epsilon_text(epsilon) for epsilon in epsilons]
    if len(epsilons) > _MOST_TICKS or not any("/" in text for text in texts):
        return {}
    return {"tickmode": "array", "tickvals": epsilons, "ticktext": texts}


def _traces(curve: Curve, index: int, *, is_filled: bool) -> list[go.Scatter]:
    """The measured points and the line through them, which radii make a line of its own."""
    more: dict[str, Any] = {"is_proven": curve.is_certified, "legendgroup": html.escape(curve.name)}
    # What is proven at an epsilon is proven at any smaller one.
    line = {"shape": "vh"} if curve.is_certified else {}
    fill: dict[str, Any] = FILL if is_filled else {}
    hover_texts: dict[str, Any] = {
        "texts": [
            hover(
                curve.name,
                f"ε = {epsilon_text(row.level)}, {row.by}",
                f"accuracy {share_text(row)}",
                f"95 % interval {interval(row)}",
            )
            for row in curve.points
        ],
        "error_y": intervals_of(curve.points),
    }
    x, y = [row.level for row in curve.points], [row.value for row in curve.points]
    if not curve.steps:
        return [series(curve.name, x, y, index, line=line, **hover_texts, **more, **fill)]
    epsilons, shares = zip(*curve.steps, strict=True)
    steps = series(curve.name, epsilons, shares, index, line=line, mode="lines", **more, **fill)
    return [steps, series(curve.name, x, y, index, mode="markers", showlegend=False, **hover_texts, **more)]
