"""Attacks that are several, run one after another: which of them broke how many examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from withstand.evaluation.measurements import ATTACKED
from withstand.evaluation.results import AttackInfo, StageCounts
from withstand.reporting.figures import COLOURS, GREY, SHARES, axis, bars, chart, hover
from withstand.reporting.read import Run
from withstand.reporting.section import Cell, Figure, Prose, Section, Table
from withstand.reporting.table import clean, one
from withstand.reporting.wording import budget, count, epsilon_text, norm_text, percent, sentence

__all__ = ["PLACE", "section"]

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


class _Outcome(NamedTuple):
    """What became of all test examples at one epsilon.

    Where answers are drawn, an example counts by the share of its predictions.

    Attributes:
        epsilon: In [0, 1] units.
        total: Test examples.
        parts: How many are robust, broken by each stage from the last to the first, broken at a smaller
            epsilon already, whose images serve at this one too, and wrong before any attack.
        attacked: Stage -> examples that it was given.
    """

    epsilon: float
    total: int
    parts: Mapping[str, float]
    attacked: Mapping[str, int]


def section(run: Run) -> list[Section]:
    """A section for each attack of several stages."""
    attacks = run.results.attacks if run.results else []
    several = [attack for attack in attacks if attack.stages and attack.counts]
    return [_section(run, attack, place) for place, attack in enumerate(several, start=1)]


def _section(run: Run, attack: AttackInfo, place: int) -> Section:
    repeats = run.results.num_repeats if run.results else 1
    counts = sorted(attack.counts, key=lambda each: each.epsilon)
    outcomes = [_outcome(run, attack, each, repeats) for each in counts]
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


def _outcome(run: Run, attack: AttackInfo, counts: StageCounts, repeats: int) -> _Outcome:
    names = [stage.name for stage in attack.stages]
    share = one(run.table, ATTACKED, by=attack.name, norm=attack.norm, level=counts.epsilon)
    right = clean(run)
    broken = dict(zip(names, counts.broken, strict=True))
    total = ((share and share.total) or 0) // repeats
    robust = ((share and share.correct) or 0) / repeats
    all_clean = right.total or 1
    wrong = (all_clean - (right.correct or 0)) / all_clean * total
    earlier = total - wrong - robust - sum(broken.values())
    rounding = len(names) / 2 if repeats > 1 else 1e-6
    parts = {_ROBUST: robust, **{name: broken[name] for name in reversed(names)}}
    parts |= {_EARLIER: earlier if earlier > rounding else 0, _WRONG: wrong}
    return _Outcome(counts.epsilon, total, parts, dict(zip(names, counts.attacked, strict=True)))


def _parts(outcomes: Sequence[_Outcome]) -> list[str]:
    """Into what examples fall; without what is broken earlier where nothing is."""
    has_earlier = any(outcome.parts[_EARLIER] for outcome in outcomes)
    return [part for part in outcomes[0].parts if part != _EARLIER or has_earlier]


def _number(value: float) -> str:
    """A number of examples; with a decimal where it is no whole one."""
    return count(round(value)) if abs(value - round(value)) < 1e-6 else f"{value:,.1f}"


def _verdict(attack: AttackInfo, outcomes: Sequence[_Outcome]) -> str:
    """At the largest epsilon at which examples are still robust, else the last: who broke what."""
    robust = (outcome for outcome in reversed(outcomes) if outcome.parts[_ROBUST] > 0)
    outcome = next(robust, outcomes[-1])
    broken = {stage.name: int(outcome.parts[stage.name]) for stage in attack.stages}
    at, total = budget(attack.norm, outcome.epsilon), sum(broken.values())
    if not total:
        return f"At {at}, no attack of the suite broke any example."
    most = max(broken, key=lambda name: broken[name])
    later = list(broken)[list(broken).index(most) + 1 :]
    text = f"At {at}, {most} broke the most, {count(broken[most])} of the {count(total)} broken there."
    if not later:
        return f"{text} It is the last of the suite, so a stronger attack after it may break more."
    rest = sum(broken[name] for name in later)
    if rest == 0:
        return f"{text} What came after it broke none more."
    share = percent(rest / outcome.total, outcome.total)
    return f"{text} What came after it broke {count(rest)} more, {share} of all."


def _table(title: str, attack: AttackInfo, outcomes: Sequence[_Outcome]) -> Table:
    before = [part for part in (_WRONG, _EARLIER) if part in _parts(outcomes)]
    heads = [Cell(stage.name, [stage.kind]) for stage in attack.stages]
    rows = [
        [
            Cell(epsilon_text(outcome.epsilon)),
            *(Cell(_number(outcome.parts[part])) for part in before),
            *(
                Cell(_number(outcome.parts[name]), [f"of {count(attacked)}"], is_bold=True)
                for name, attacked in outcome.attacked.items()
            ),
            Cell(f"{_number(outcome.parts[_ROBUST])} of {count(outcome.total)}", is_bold=True),
        ]
        for outcome in outcomes
    ]
    header: list[Cell | str] = ["Epsilon", *(part.capitalize() for part in before), *heads, "Robust"]
    return Table(title, header, rows, _TABLE, kind="compare")


def _figure(attack: AttackInfo, outcomes: Sequence[_Outcome]) -> Figure:
    looks = {_ROBUST: (COLOURS[0], ""), _EARLIER: (GREY, "/"), _WRONG: (GREY, "")}
    for place, stage in enumerate(attack.stages):
        looks[stage.name] = (COLOURS[1:][place % 5], _PATTERNS[place % len(_PATTERNS)])
    parts = _parts(outcomes)
    caption = (
        "Each bar is all test examples at one epsilon: at the bottom those that are robust to all attacks, "
        "above them what each attack broke, the last one first, and on top what was wrong before any"
        f"{' or broken at a smaller epsilon' if _EARLIER in parts else ''}. Each attack is given only what "
        "the former did not break."
    )
    return chart(
        [_bars(part, outcomes, *looks[part]) for part in parts],
        f"Examples broken by each attack, {attack.name}",
        caption,
        x=axis(f"epsilon ({norm_text(attack.norm)})", type="category"),
        y=axis("share of test examples", **SHARES | {"range": [0, 1.0]}),
        height=380,
        layout={"barmode": "stack", "bargap": max(0.35, 0.85 - 0.125 * len(outcomes))},
    )


def _bars(part: str, outcomes: Sequence[_Outcome], colour: str, pattern: str) -> go.Bar:
    epsilons = [epsilon_text(outcome.epsilon) for outcome in outcomes]
    shares = [outcome.parts[part] / max(1, outcome.total) for outcome in outcomes]
    texts = [
        hover(
            part,
            f"epsilon {epsilon}: {_number(outcome.parts[part])} of {count(outcome.total)}, "
            f"{percent(share, outcome.total)}",
        )
        for epsilon, outcome, share in zip(epsilons, outcomes, shares, strict=True)
    ]
    fill = {"pattern": {"shape": pattern, "size": 7, "solidity": 0.25}}
    return bars(part, epsilons, shares, colour, texts, marker=fill)
