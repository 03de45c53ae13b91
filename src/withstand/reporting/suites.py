"""What the page says of a suite of attacks: which of them found how much."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from withstand.reporting.figures import (
    COLOURS,
    GREY,
    SHARES,
    Figure,
    axis,
    finished,
    layout,
    legend_height,
)
from withstand.reporting.schema import AttackCurve, CurvePoint, Metrics
from withstand.reporting.wording import budget, count, epsilon_text, norm_text, percent

__all__ = ["StageRow", "SuiteRow", "SuiteView", "view_suites"]

_PATTERNS = ("/", "x", "-", "\\", "+", ".", "|")  # so that no part is told by colour alone


@dataclass(frozen=True)
class StageRow:
    """One attack of a suite: its name, what it knows of the network, and what it is."""

    name: str
    kind: str
    description: str


@dataclass(frozen=True)
class SuiteRow:
    """One epsilon: what each attack found, as texts, and what still stands after all."""

    epsilon: str
    before: str
    felled: Sequence[tuple[str, str]]
    standing: str


@dataclass(frozen=True)
class SuiteView:
    """The section on one suite.

    Attributes:
        name: The suite's.
        norm: Its sign.
        stages: Its attacks, in their order.
        figure: Shares felled by each, one bar an epsilon.
        rows: The same as a table.
        verdict: Which attack was the strongest, and what the later ones still found.
    """

    name: str
    norm: str
    stages: Sequence[StageRow]
    figure: Figure
    rows: Sequence[SuiteRow]
    verdict: str


def view_suites(metrics: Metrics) -> list[SuiteView]:
    """A section for each attack that is a suite of several."""
    found = []
    for attack in metrics.get("attacks", []):
        stages = attack.get("stages") or []
        points = sorted(
            (point for point in attack["curve"] if point.get("stages")), key=lambda point: point["epsilon"]
        )
        if stages and points:
            rows = [StageRow(each["name"], each["kind"], each.get("description") or "") for each in stages]
            found.append(_view(attack, rows, points))
    return found


def _view(attack: AttackCurve, stages: Sequence[StageRow], points: Sequence[CurvePoint]) -> SuiteView:
    return SuiteView(
        name=attack["name"],
        norm=norm_text(attack["norm"]),
        stages=stages,
        figure=_figure(attack, [stage.name for stage in stages], points),
        rows=[_row(point, stages) for point in points],
        verdict=_verdict(attack, points),
    )


def _felled(point: CurvePoint) -> Mapping[str, int]:
    return {each["name"]: each["num_felled"] for each in point.get("stages", [])}


def _attacked(point: CurvePoint) -> Mapping[str, int]:
    return {each["name"]: each["num_attacked"] for each in point.get("stages", [])}


def _num_before(point: CurvePoint) -> int:
    """Examples that no attack was needed for: they were wrong already."""
    return point["total"] - max(_attacked(point).values(), default=0)


def _num_standing(point: CurvePoint) -> int:
    return point["total"] - _num_before(point) - sum(_felled(point).values())


def _share(number: int, point: CurvePoint) -> float:
    return number / max(1, point["total"])


def _row(point: CurvePoint, stages: Sequence[StageRow]) -> SuiteRow:
    felled, attacked = _felled(point), _attacked(point)
    return SuiteRow(
        epsilon=epsilon_text(point["epsilon"]),
        before=count(_num_before(point)),
        felled=[
            (count(felled.get(stage.name, 0)), f"of {count(attacked.get(stage.name, 0))}") for stage in stages
        ],
        standing=f"{count(_num_standing(point))} of {count(point['total'])}",
    )


def _verdict(attack: AttackCurve, points: Sequence[CurvePoint]) -> str:
    """At the largest epsilon at which examples still stand, else the last: who found what."""
    point = next((point for point in reversed(points) if _num_standing(point) > 0), points[-1])
    at, felled = budget(attack["norm"], point["epsilon"]), _felled(point)
    total = sum(felled.values())
    if not total:
        return f"At {at}, no attack of the suite felled any example."
    most = max(felled, key=lambda name: felled[name])
    later = list(felled)[list(felled).index(most) + 1 :]
    text = f"At {at}, {most} felled the most, {count(felled[most])} of the {count(total)} that fell."
    if not later:
        return f"{text} It is the last of the suite, so a stronger attack after it may find more."
    rest = sum(felled[name] for name in later)
    found = "found none more" if rest == 0 else f"found {count(rest)} more"
    return f"{text} What came after it {found}, {percent(_share(rest, point), point['total'])} of all."


def _figure(attack: AttackCurve, names: Sequence[str], points: Sequence[CurvePoint]) -> Figure:
    epsilons = [epsilon_text(point["epsilon"]) for point in points]
    counts = {
        "still standing": [_num_standing(point) for point in points],
        **{name: [_felled(point).get(name, 0) for point in points] for name in reversed(names)},
        "wrong before": [_num_before(point) for point in points],
    }
    looks = {"still standing": ("#0072B2", ""), "wrong before": (GREY, "")}
    for place, name in enumerate(names):
        looks[name] = (COLOURS[1:][place % 5], _PATTERNS[place % len(_PATTERNS)])
    bars = [_bar(name, numbers, points, epsilons, looks[name]) for name, numbers in counts.items()]
    x_axis = axis(f"epsilon ({html.escape(norm_text(attack['norm']))})") | {"type": "category"}
    shape = layout(x_axis, axis("share of test examples") | SHARES | {"range": [0, 1.0]})
    shape |= {"barmode": "stack", "bargap": 0.35}
    caption = (
        "Each bar is all test examples at one epsilon: at the bottom those that stand after all attacks, "
        "above them what each attack felled, the last one first, and on top what was wrong before any. Each "
        "attack is given only what the former left standing."
    )
    title = f"Who felled how many, {attack['name']}"
    return finished(go.Figure(bars, shape), title, caption, 380 + legend_height(len(bars)))


def _bar(
    name: str,
    numbers: Sequence[int],
    points: Sequence[CurvePoint],
    epsilons: Sequence[str],
    look: tuple[str, str],
) -> go.Bar:
    colour, pattern = look
    shares = [_share(number, point) for number, point in zip(numbers, points, strict=True)]
    shown = f"<b>{html.escape(name)}</b>"
    return go.Bar(
        name=html.escape(name),
        x=list(epsilons),
        y=shares,
        hovertext=[
            f"{shown}<br>epsilon {epsilon}: {count(number)} of {count(point['total'])}, "
            f"{percent(share, point['total'])}"
            for epsilon, number, share, point in zip(epsilons, numbers, shares, points, strict=True)
        ],
        hovertemplate="%{hovertext}<extra></extra>",
        marker={"color": colour, "pattern": {"shape": pattern, "size": 7, "solidity": 0.25}},
    )
