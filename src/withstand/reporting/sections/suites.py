"""Attacks that are several, run one after another: which of them broke how many examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import plotly.graph_objects as go

from withstand.reporting.figures import COLOURS, GREY, SHARES, axis, bars, chart, hover
from withstand.reporting.read import Run
from withstand.reporting.section import Cell, Figure, Prose, Section, Table
from withstand.reporting.table import clean, one
from withstand.reporting.wording import budget, count, epsilon_text, norm_text, percent, sentence
from withstand.results.measurements import ATTACKED
from withstand.results.results import AttackInfo

PLACE = 20
_PATTERNS = ("/", "x", "-", "\\", "+", ".", "|")  # so that no part is told by colour alone
_ROBUST, _EARLIER, _WRONG = "robust", "broken at a smaller epsilon", "wrong before"
_DRAWN = (
    " Answers are drawn: an example counts as broken, or as robust, by the share of its {} predictions, so "
    "numbers are rounded means. An attack is given every example of which any prediction is robust."
)
_TABLE = (
    "Examples that each attack broke, of those that it was given. An example counts as robust only if no "
    "attack of the suite breaks it."
)

_FIGURE = (
    "Each bar is all test examples at one epsilon: at the bottom those that are robust to all attacks, above "
    "them what each attack broke, the last one first, and on top what was wrong before any{}. Each attack is "
    "given only what the former did not break."
)


class _Outcomes(NamedTuple):
    """What became of all ``total`` test examples: part -> how many at each of the epsilons.

    The parts are the robust ones, those that each stage broke, from the last to the first, those broken at a
    smaller epsilon already, where there are any, whose images serve at this one too, and those wrong before.
    Where answers are drawn, an example counts by the share of its predictions.
    """

    epsilons: Sequence[float]
    total: int
    parts: Mapping[str, Sequence[float]]


def section(run: Run) -> list[Section]:
    """A section for each attack of several stages."""
    attacks = run.results.attacks if run.results else []
    several = [attack for attack in attacks if attack.stages and attack.counts]
    return [_section(run, attack, place) for place, attack in enumerate(several, start=1)]


def _section(run: Run, attack: AttackInfo, place: int) -> Section:
    repeats = run.results.num_repeats if run.results else 1
    attack = replace(attack, counts=sorted(attack.counts, key=lambda each: each.epsilon))
    outcomes = _outcomes(run, attack, repeats)
    title = f"Suite {attack.name}, {norm_text(attack.norm)}"
    note = _DRAWN.format(repeats) if repeats > 1 else ""
    return Section(
        key="suite" if place == 1 else f"suite-{place}",
        title=title,
        tab="attacks",
        prose=[Prose(_verdict(attack, outcomes) + note)],
        figures=[_figure(attack, outcomes)],
        tables=[_table(title, attack, outcomes)],
        descriptions=[(each.name, sentence(each.description)) for each in attack.stages if each.description],
        is_brief=True,
    )


def _outcomes(run: Run, attack: AttackInfo, repeats: int) -> _Outcomes:
    right, at = clean(run), [each.epsilon for each in attack.counts]
    total = (right.total or 0) // repeats
    wrong = ((right.total or 0) - (right.correct or 0)) / (right.total or 1) * total
    rows = [one(run.table, ATTACKED, by=attack.name, norm=attack.norm, level=level) for level in at]
    robust = [((row and row.correct) or 0) / repeats for row in rows]
    broken = {stage.name: [each.broken[n] for each in attack.counts] for n, stage in enumerate(attack.stages)}
    left = [total - wrong - each for each in robust]
    earlier = [each - sum(counts.broken) for each, counts in zip(left, attack.counts, strict=True)]
    rounding = len(attack.stages) / 2 if repeats > 1 else 1e-6
    earlier = [each if each > rounding else 0 for each in earlier]
    parts: dict[str, Sequence[float]] = {_ROBUST: robust, **dict(reversed(broken.items()))}
    parts |= {_EARLIER: earlier} if any(earlier) else {}
    return _Outcomes(at, total, parts | {_WRONG: [wrong] * len(at)})


def _number(value: float) -> str:
    """A number of examples; with a decimal where it is no whole one."""
    return count(round(value)) if abs(value - round(value)) < 1e-6 else f"{value:,.1f}"


def _verdict(attack: AttackInfo, outcomes: _Outcomes) -> str:
    """At the largest epsilon at which examples are still robust, else the last: who broke what."""
    robust = [place for place, number in enumerate(outcomes.parts[_ROBUST]) if number > 0]
    counts = attack.counts[robust[-1] if robust else -1]
    at, total, most = budget(attack.norm, counts.epsilon), sum(counts.broken), max(counts.broken)
    if not total:
        return f"At {at}, no attack of the suite broke any example."
    place = counts.broken.index(most)
    name, rest = attack.stages[place].name, sum(counts.broken[place + 1 :])
    text = f"At {at}, {name} broke the most, {count(most)} of the {count(total)} broken there."
    if place + 1 == len(attack.stages):
        return f"{text} It is the last of the suite, so a stronger attack after it may break more."
    if rest == 0:
        return f"{text} What came after it broke none more."
    share = percent(rest / outcomes.total, outcomes.total)
    return f"{text} What came after it broke {count(rest)} more, {share} of all."


def _table(title: str, attack: AttackInfo, outcomes: _Outcomes) -> Table:
    before = [part for part in (_WRONG, _EARLIER) if part in outcomes.parts]
    heads = [Cell(stage.name, [stage.kind]) for stage in attack.stages]
    header: list[Cell | str] = ["Epsilon", *(part.capitalize() for part in before), *heads, "Robust"]
    body = []
    for place, counts in enumerate(attack.counts):
        unattacked = [Cell(_number(outcomes.parts[part][place])) for part in before]
        broken = [
            Cell(count(broken), [f"of {count(attacked)}"], is_bold=True)
            for broken, attacked in zip(counts.broken, counts.attacked, strict=True)
        ]
        robust = f"{_number(outcomes.parts[_ROBUST][place])} of {count(outcomes.total)}"
        body.append([Cell(epsilon_text(counts.epsilon)), *unattacked, *broken, Cell(robust, is_bold=True)])
    return Table(title, header, body, _TABLE, kind="compare")


def _figure(attack: AttackInfo, outcomes: _Outcomes) -> Figure:
    looks = {_ROBUST: (COLOURS[0], ""), _EARLIER: (GREY, "/"), _WRONG: (GREY, "")}
    for place, stage in enumerate(attack.stages):
        looks[stage.name] = (COLOURS[1:][place % 5], _PATTERNS[place % len(_PATTERNS)])
    caption = _FIGURE.format(" or broken at a smaller epsilon" if _EARLIER in outcomes.parts else "")
    traces = [_bars(part, outcomes, *looks[part]) for part in outcomes.parts]
    x = axis(f"epsilon ({norm_text(attack.norm)})", type="category")
    y = axis("share of test examples", **SHARES | {"range": [0, 1.0]})
    layout = {"barmode": "stack", "bargap": max(0.35, 0.85 - 0.125 * len(outcomes.epsilons))}
    title = f"Examples broken by each attack, {attack.name}"
    return chart(traces, title, caption, x=x, y=y, height=380, layout=layout)


def _bars(part: str, outcomes: _Outcomes, colour: str, pattern: str) -> go.Bar:
    epsilons, total = list(map(epsilon_text, outcomes.epsilons)), outcomes.total
    texts = [
        hover(
            part,
            f"epsilon {at}: {_number(number)} of {count(total)}, {percent(number / max(1, total), total)}",
        )
        for at, number in zip(epsilons, outcomes.parts[part], strict=True)
    ]
    shares = [number / max(1, total) for number in outcomes.parts[part]]
    fill = {"pattern": {"shape": pattern, "size": 7, "solidity": 0.25}}
    return bars(part, epsilons, shares, colour, texts, marker=fill)
