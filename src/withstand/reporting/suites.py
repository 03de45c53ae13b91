"""What the page says of a suite of attacks: which of them found how much."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import plotly.graph_objects as go

from withstand.reporting.old_figures import (
    COLOURS,
    GREY,
    SHARES,
    Figure,
    axis,
    finished,
    layout,
    legend_height,
)
from withstand.reporting.schema import Accuracy, AttackCurve, CurvePoint, Metrics
from withstand.reporting.old_wording import budget, count, epsilon_text, norm_text, percent

__all__ = ["StageRow", "SuiteRow", "SuiteView", "view_suites"]

_PATTERNS = ("/", "x", "-", "\\", "+", ".", "|")  # so that no part is told by colour alone
_STANDING, _EARLIER, _WRONG = "still standing", "felled at a smaller epsilon", "wrong before"
_DRAWN = (
    "Answers are drawn: an example counts as felled, or as standing, by the share of its {} predictions, so "
    "numbers are rounded means. An attack is given every example of which any prediction stands."
)


@dataclass(frozen=True)
class StageRow:
    """One attack of a suite: its name, what it knows of the network, and what it is."""

    name: str
    kind: str
    description: str


@dataclass(frozen=True)
class SuiteRow:
    """One epsilon: what each attack found, as texts, and what still stands after all.

    ``before`` was wrong before any attack, ``earlier`` fell at a smaller epsilon.
    """

    epsilon: str
    before: str
    earlier: str
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
        has_earlier: Whether any example fell at a smaller epsilon, and so need not be attacked again.
        verdict: Which attack was the strongest, and what the later ones still found.
        note: What to know of the numbers where answers are drawn; else empty.
    """

    name: str
    norm: str
    stages: Sequence[StageRow]
    figure: Figure
    rows: Sequence[SuiteRow]
    has_earlier: bool
    verdict: str
    note: str = ""


class _Tally(NamedTuple):
    """What became of all test examples at one epsilon.

    Where answers are drawn, an example counts by the share of its predictions.

    Attributes:
        epsilon: In [0, 1] units.
        wrong: Examples that were wrong before any attack.
        earlier: Felled at a smaller epsilon already, whose images serve at this one too.
        felled: Stage -> examples that it felled here.
        attacked: Stage -> examples that it was given.
        standing: Examples that are right after all.
        total: All of them.
    """

    epsilon: float
    wrong: float
    earlier: float
    felled: Mapping[str, int]
    attacked: Mapping[str, int]
    standing: float
    total: int


def view_suites(metrics: Metrics) -> list[SuiteView]:
    """A section for each attack that is a suite of several."""
    sampling = metrics.get("sampling")
    repeats = sampling["num_repeats"] if sampling else 1
    found = []
    for attack in metrics.get("attacks", []):
        stages = attack.get("stages") or []
        points = sorted(
            (point for point in attack["curve"] if point.get("stages")), key=lambda point: point["epsilon"]
        )
        if stages and points:
            rows = [StageRow(each["name"], each["kind"], each.get("description") or "") for each in stages]
            found.append(_view(attack, rows, [_tally(point, metrics["clean"], repeats) for point in points]))
            if repeats > 1:
                found[-1] = replace(found[-1], note=_DRAWN.format(repeats))
    return found


def _tally(point: CurvePoint, clean: Accuracy, repeats: int) -> _Tally:
    stages = point.get("stages", [])
    felled = {each["name"]: each["num_felled"] for each in stages}
    standing, total = point["correct"] / repeats, point["total"] // repeats
    wrong = (clean["total"] - clean["correct"]) / clean["total"] * total
    earlier = total - wrong - standing - sum(felled.values())
    rounding = len(stages) / 2 if repeats > 1 else 1e-6
    return _Tally(
        point["epsilon"],
        wrong,
        earlier if earlier > rounding else 0,
        felled,
        {each["name"]: each["num_attacked"] for each in stages},
        standing,
        total,
    )


def _view(attack: AttackCurve, stages: Sequence[StageRow], tallies: Sequence[_Tally]) -> SuiteView:
    return SuiteView(
        name=attack["name"],
        norm=norm_text(attack["norm"]),
        stages=stages,
        figure=_figure(attack, [stage.name for stage in stages], tallies),
        rows=[_row(tally, stages) for tally in tallies],
        has_earlier=any(tally.earlier for tally in tallies),
        verdict=_verdict(attack, tallies),
    )


def _row(tally: _Tally, stages: Sequence[StageRow]) -> SuiteRow:
    return SuiteRow(
        epsilon=epsilon_text(tally.epsilon),
        before=_number(tally.wrong),
        earlier=_number(tally.earlier),
        felled=[
            (count(tally.felled.get(stage.name, 0)), f"of {count(tally.attacked.get(stage.name, 0))}")
            for stage in stages
        ],
        standing=f"{_number(tally.standing)} of {count(tally.total)}",
    )


def _number(value: float) -> str:
    """A number of examples; with a decimal where it is no whole one."""
    return count(round(value)) if abs(value - round(value)) < 1e-6 else f"{value:,.1f}"


def _verdict(attack: AttackCurve, tallies: Sequence[_Tally]) -> str:
    """At the largest epsilon at which examples still stand, else the last: who found what."""
    tally = next((tally for tally in reversed(tallies) if tally.standing > 0), tallies[-1])
    at, felled = budget(attack["norm"], tally.epsilon), tally.felled
    total = sum(felled.values())
    if not total:
        return f"At {at}, no attack of the suite felled any example."
    most = max(felled, key=lambda name: felled[name])
    later = list(felled)[list(felled).index(most) + 1 :]
    text = f"At {at}, {most} felled the most, {count(felled[most])} of the {count(total)} that fell there."
    if not later:
        return f"{text} It is the last of the suite, so a stronger attack after it may find more."
    rest = sum(felled[name] for name in later)
    if rest == 0:
        return f"{text} What came after it found none more."
    share = percent(rest / tally.total, tally.total)
    return f"{text} What came after it found {count(rest)} more, {share} of all."


def _figure(attack: AttackCurve, names: Sequence[str], tallies: Sequence[_Tally]) -> Figure:
    counts: dict[str, list[float]] = {
        _STANDING: [tally.standing for tally in tallies],
        **{name: [tally.felled.get(name, 0) for tally in tallies] for name in reversed(names)},
        _EARLIER: [tally.earlier for tally in tallies],
        _WRONG: [tally.wrong for tally in tallies],
    }
    if not any(counts[_EARLIER]):
        del counts[_EARLIER]
    looks = {_STANDING: ("#0072B2", ""), _EARLIER: (GREY, "/"), _WRONG: (GREY, "")}
    for place, name in enumerate(names):
        looks[name] = (COLOURS[1:][place % 5], _PATTERNS[place % len(_PATTERNS)])
    bars = [_bar(name, numbers, tallies, looks[name]) for name, numbers in counts.items()]
    x_axis = axis(f"epsilon ({html.escape(norm_text(attack['norm']))})") | {"type": "category"}
    shape = layout(x_axis, axis("share of test examples") | SHARES | {"range": [0, 1.0]})
    shape |= {"barmode": "stack", "bargap": max(0.35, 0.85 - 0.125 * len(tallies))}
    caption = (
        "Each bar is all test examples at one epsilon: at the bottom those that stand after all attacks, "
        "above them what each attack felled, the last one first, and on top what was wrong before any"
        f"{' or fell at a smaller epsilon' if _EARLIER in counts else ''}. Each attack is given only what "
        "the former left standing."
    )
    title = f"Who felled how many, {attack['name']}"
    return finished(go.Figure(bars, shape), title, caption, 380 + legend_height(len(bars)))


def _bar(name: str, numbers: Sequence[float], tallies: Sequence[_Tally], look: tuple[str, str]) -> go.Bar:
    colour, pattern = look
    shares = [number / max(1, tally.total) for number, tally in zip(numbers, tallies, strict=True)]
    epsilons = [epsilon_text(tally.epsilon) for tally in tallies]
    shown = f"<b>{html.escape(name)}</b>"
    return go.Bar(
        name=html.escape(name),
        x=epsilons,
        y=shares,
        hovertext=[
            f"{shown}<br>epsilon {epsilon}: {_number(number)} of {count(tally.total)}, "
            f"{percent(share, tally.total)}"
            for epsilon, number, share, tally in zip(epsilons, numbers, shares, tallies, strict=True)
        ],
        hovertemplate="%{hovertext}<extra></extra>",
        marker={"color": colour, "pattern": {"shape": pattern, "size": 7, "solidity": 0.25}},
    )
