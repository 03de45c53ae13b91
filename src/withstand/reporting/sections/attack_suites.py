"""What attacks did: suites of several that run one after another, and attacks on answers that are random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import plotly.graph_objects as go

from withstand.core.writing import epsilon_text, norm_text, percent
from withstand.reporting import figures, formatting
from withstand.reporting.figures import COLOURS, GREY, SHARES, axis, chart, hover
from withstand.reporting.formatting import budget, count, share_text
from withstand.reporting.read import Run
from withstand.reporting.section import PROSE, Cell, Figure, Prose, Section, Table
from withstand.reporting.table import clean, one
from withstand.results.measurements import ATTACKED, Measurement
from withstand.results.random_answers import Sweep
from withstand.results.results import AttackInfo

PLACE = 30
_OF_SUITES, _OF_DRAWS = PROSE["suites"], PROSE["random_answers"]
_PATTERNS = ("/", "x", "-", "\\", "+", ".", "|")  # so that no part is known by colour alone
_ROBUST, _EARLIER, _WRONG = "robust", "broken at a smaller epsilon", "wrong before"


class _Outcomes(NamedTuple):
    """What became of all ``total`` test examples: part -> how many at each of the epsilons.

    The parts are the robust ones, those that each stage broke, from the last to the first, those broken at a
    smaller epsilon already, where there are any, whose images serve at this one too, and those wrong before.
    Where answers are drawn, an example counts by the share of its predictions.
    """

    epsilons: Sequence[float]
    total: int
    parts: Mapping[str, Sequence[float]]


def section(run: Run) -> list[Section | None]:
    """What the page shows of suites, and of random answers."""
    return [*suites(run), random_answers(run)]


def suites(run: Run) -> list[Section]:
    """A section for each attack of several stages."""
    attacks = run.results.attacks if run.results else []
    several = [attack for attack in attacks if attack.stages and attack.counts]
    return [_suite(run, attack, place) for place, attack in enumerate(several, start=1)]


def _suite(run: Run, attack: AttackInfo, place: int) -> Section:
    repeats = run.results.num_repeats if run.results else 1
    attack = replace(attack, counts=sorted(attack.counts, key=lambda counts: counts.epsilon))
    outcomes = _outcomes(run, attack, repeats)
    title, verdict = f"Suite {attack.name}, {norm_text(attack.norm)}", _suite_verdict(attack, outcomes)
    described = {stage.name: stage.description for stage in attack.stages if stage.description}
    note = f" {_OF_SUITES['drawn'].format(repeats=repeats)}" if repeats > 1 else ""
    return Section(
        key="suite" if place == 1 else f"suite-{place}",
        title=title,
        tab="attacks",
        prose=[Prose(verdict + note)],
        figures=[_suite_figure(attack, outcomes)],
        tables=[_suite_table(title, attack, outcomes)],
        descriptions=[(name, formatting.sentence(text)) for name, text in described.items()],
        is_brief=True,
    )


def _outcomes(run: Run, attack: AttackInfo, repeats: int) -> _Outcomes:
    clean_accuracy, at = clean(run), [counts.epsilon for counts in attack.counts]
    total = (clean_accuracy.total or 0) // repeats
    wrong = (
        ((clean_accuracy.total or 0) - (clean_accuracy.correct or 0)) / (clean_accuracy.total or 1) * total
    )
    rows = [one(run.table, ATTACKED, by=attack.name, norm=attack.norm, level=level) for level in at]
    robust = [((row and row.correct) or 0) / repeats for row in rows]
    broken = {
        stage.name: [counts.broken[n] for counts in attack.counts] for n, stage in enumerate(attack.stages)
    }
    not_robust = [total - wrong - number for number in robust]
    earlier = [number - sum(counts.broken) for number, counts in zip(not_robust, attack.counts, strict=True)]
    rounding = len(attack.stages) / 2 if repeats > 1 else 1e-6
    earlier = [number if number > rounding else 0 for number in earlier]
    parts: dict[str, Sequence[float]] = {_ROBUST: robust, **dict(reversed(broken.items()))}
    parts |= {_EARLIER: earlier} if any(earlier) else {}
    return _Outcomes(at, total, parts | {_WRONG: [wrong] * len(at)})


def _number(value: float) -> str:
    """A number of examples; with a decimal where it is no whole one."""
    return count(round(value)) if abs(value - round(value)) < 1e-6 else f"{value:,.1f}"


def _suite_verdict(attack: AttackInfo, outcomes: _Outcomes) -> str:
    """Which attack broke how many, at the largest epsilon with examples still robust, else at the last."""
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
        return f"{text} The attacks after it broke no more."
    share = percent(rest / outcomes.total)
    return f"{text} The attacks after it broke {count(rest)} more, {share} of all."


def _suite_table(title: str, attack: AttackInfo, outcomes: _Outcomes) -> Table:
    before = [part for part in (_WRONG, _EARLIER) if part in outcomes.parts]
    heads = [Cell(stage.name, [stage.kind]) for stage in attack.stages]
    header: list[Cell | str] = ["ε", *(part.capitalize() for part in before), *heads, "Robust"]
    body = []
    for place, counts in enumerate(attack.counts):
        unattacked = [Cell(_number(outcomes.parts[part][place])) for part in before]
        broken = [
            Cell(count(broken), [f"of {count(attacked)}"], is_bold=True)
            for broken, attacked in zip(counts.broken, counts.attacked, strict=True)
        ]
        robust = f"{_number(outcomes.parts[_ROBUST][place])} of {count(outcomes.total)}"
        body.append([Cell(epsilon_text(counts.epsilon)), *unattacked, *broken, Cell(robust, is_bold=True)])
    return Table(title, header, body, _OF_SUITES["table"], kind="compare")


def _suite_figure(attack: AttackInfo, outcomes: _Outcomes) -> Figure:
    looks = {_ROBUST: (COLOURS[0], ""), _EARLIER: (GREY, "/"), _WRONG: (GREY, "")}
    for place, stage in enumerate(attack.stages):
        looks[stage.name] = (COLOURS[1:][place % (len(COLOURS) - 1)], _PATTERNS[place % len(_PATTERNS)])
    earlier = " or broken at a smaller epsilon" if _EARLIER in outcomes.parts else ""
    traces = [_bars(part, outcomes, *looks[part]) for part in outcomes.parts]
    x = axis(f"ε ({norm_text(attack.norm)})", type="category")
    y = axis("share of test examples", **SHARES | {"range": [0, 1.0]})
    layout = {"barmode": "stack", "bargap": max(0.35, 0.85 - 0.125 * len(outcomes.epsilons))}
    title, caption = f"Examples broken by each attack, {attack.name}", _OF_SUITES["figure"]
    return chart(traces, title, caption.format(earlier=earlier), x=x, y=y, height=380, layout=layout)


def _bars(part: str, outcomes: _Outcomes, colour: str, pattern: str) -> go.Bar:
    epsilons, total = list(map(epsilon_text, outcomes.epsilons)), outcomes.total
    shares = [number / max(1, total) for number in outcomes.parts[part]]
    texts = [
        hover(part, f"ε = {at}: {_number(number)} of {count(total)}, {percent(share)}")
        for at, number, share in zip(epsilons, outcomes.parts[part], shares, strict=True)
    ]
    fill = {"pattern": {"shape": pattern, "size": 7, "solidity": 0.25}}
    return figures.bars(part, epsilons, shares, colour, texts, marker=fill)


def random_answers(run: Run) -> Section | None:
    """The draws behind predictions and gradients, and whether more of them would break more examples."""
    sampling = run.results.sampling if run.results else None
    if sampling is None:
        return None
    drawn = sampling.attack_samples
    facts = {"Draws a prediction": sampling.num_samples, "Predictions an example": sampling.num_repeats}
    facts |= {} if drawn is None else {"Draws an attack's gradient": drawn}
    shown = Section(
        key="random",
        title="Random answers",
        tab="attacks",
        prose=[Prose(_OF_DRAWS["meaning"], "meaning", "How it is scored.")],
        facts=[(name, count(number)) for name, number in facts.items()],
        notes=[Prose(formatting.sentence(sampling.description), "small")],
        is_brief=True,
    )
    if sampling.sweep is None or not sampling.sweep.levels:
        return shown
    levels = _levels(sampling.sweep)
    rows = [[count(round(level.level)), *formatting.measured(level)[:2]] for level in levels]
    header, caption = ["Draws a gradient", "Accuracy", "95 % interval"], _OF_DRAWS["table"]
    return replace(
        shown,
        prose=[*shown.prose, Prose(_draws_verdict(sampling.sweep, levels, drawn))],
        figures=[_draws_figure(sampling.sweep, levels)],
        tables=[Table("The same numbers as a table", header, rows, caption, is_folded=True)],
    )


def _levels(sweep: Sweep) -> list[Measurement]:
    """The accuracies, ascending in draws."""
    levels = [
        Measurement(
            ATTACKED,
            sweep.attack,
            "",
            level.num_samples,
            level.value,
            level.lower,
            level.upper,
            total=level.total,
        )
        for level in sweep.levels
    ]
    return sorted(levels, key=lambda level: level.level)


def _draws_verdict(sweep: Sweep, levels: Sequence[Measurement], chosen: int | None) -> str:
    """Whether more draws still break more."""
    first, last = levels[0], levels[-1]
    course = _OF_DRAWS["course"].format(
        first_draws=_draws(first.level),
        last_draws=last.level,
        attack=sweep.attack,
        epsilon=epsilon_text(sweep.epsilon),
        first=share_text(first),
        last=share_text(last),
    )
    verdict = _OF_DRAWS["settled" if sweep.has_settled else "not_settled"]
    text = f"{course} {verdict.format(tolerance=f'{100 * sweep.tolerance:.3g} points')}"
    if chosen is None or not sweep.has_settled:
        return text
    return f"{text} The attacks of this evaluation average {_draws(chosen)}."


def _draws(number: float) -> str:
    return "1 draw" if number == 1 else f"{number:g} draws"


def _draws_figure(sweep: Sweep, levels: Sequence[Measurement]) -> Figure:
    draws = [level.level for level in levels]
    trace = figures.share_series(sweep.attack, levels, 0, _hover_lines, error_y=figures.intervals_of(levels))
    ticks = {"tickvals": draws, "ticktext": [f"{number:g}" for number in draws]}
    x = axis("draws of the weights a gradient", **figures.logarithmic(draws) | ticks)
    top = min(1.04, max(0.05, 1.15 * max(level.upper or 0.0 for level in levels)))
    y = axis("accuracy", **figures.shares_between(0.0, top) | {"range": [-0.02 * top, top]})
    caption = _OF_DRAWS["figure"].format(
        attack=sweep.attack, epsilon=epsilon_text(sweep.epsilon), examples=count(sweep.num_examples)
    )
    title, layout = "Accuracy against draws a gradient", {"showlegend": False}
    return chart([trace], title, caption, x=x, y=y, height=340, layout=layout)


def _hover_lines(level: Measurement) -> list[str]:
    return [f"{_draws(level.level)} a gradient", f"accuracy {share_text(level)}"]
