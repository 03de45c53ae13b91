"""Networks whose answers are random: how they are scored, and attacked."""

from __future__ import annotations

from collections.abc import Sequence

from withstand.reporting.figures import axis, chart, intervals_of, logarithmic, share_series
from withstand.reporting.read import Run
from withstand.reporting.section import Figure, Prose, Section, Table
from withstand.reporting.wording import count, epsilon_text, interval, sentence, share_text
from withstand.results.measurements import ATTACKED, Measurement
from withstand.results.random_answers import Sweep

PLACE = 30
_MEANING = (
    "The weights are drawn anew for each prediction, so that the network may answer the same image "
    "differently. A prediction is the class of the highest mean probability over its draws. Each example is "
    "predicted several times; accuracies are shares of all these predictions, and their intervals count each "
    "example once."
)
_NOT_SETTLED = (
    "It has not settled: the last two doublings lowered it by {} or more, so more draws may find more, and "
    "the attacked accuracies here are likely too high."
)


def section(run: Run) -> Section | None:
    """The draws behind predictions and gradients, and whether more of them would break more examples."""
    sampling = run.results.sampling if run.results else None
    if sampling is None:
        return None
    sweep, drawn = sampling.sweep, sampling.attack_samples
    prose = [Prose(_MEANING, "meaning", "How it is scored.")]
    facts = {"Draws a prediction": sampling.num_samples, "Predictions an example": sampling.num_repeats}
    facts |= {} if drawn is None else {"Draws an attack's gradient": drawn}
    levels = _levels(sweep) if sweep else []
    return Section(
        key="random",
        title="Random answers",
        tab="attacks",
        prose=[*prose, Prose(_verdict(sweep, levels, drawn))] if sweep and levels else prose,
        facts=[(name, count(number)) for name, number in facts.items()],
        figures=[_figure(sweep, levels)] if sweep and levels else [],
        tables=[_table(levels)] if levels else [],
        notes=[Prose(sentence(sampling.description), "small")],
        is_brief=True,
    )


def _levels(sweep: Sweep) -> list[Measurement]:
    """The accuracies, ascending in draws."""
    levels = [
        Measurement(
            ATTACKED, sweep.attack, "", each.num_samples, each.value, each.lower, each.upper, total=each.total
        )
        for each in sweep.levels
    ]
    return sorted(levels, key=lambda each: each.level)


def _verdict(sweep: Sweep, levels: Sequence[Measurement], chosen: int | None) -> str:
    """Whether more draws still break more."""
    first, last = levels[0], levels[-1]
    tolerance = f"{100 * sweep.tolerance:.3g} points"
    course = (
        f"From {_draws(first.level)} a gradient to {last.level:g} the accuracy under {sweep.attack} at "
        f"epsilon {epsilon_text(sweep.epsilon)} goes from {share_text(first)} to {share_text(last)}."
    )
    if not sweep.has_settled:
        return f"{course} {_NOT_SETTLED.format(tolerance)}"
    average = "" if chosen is None else f" The attacks of this evaluation average {_draws(chosen)}."
    said = f"It has settled: two doublings of the draws together lower it by less than {tolerance}."
    return f"{course} {said}{average}"


def _draws(number: float) -> str:
    return "1 draw" if number == 1 else f"{number:g} draws"


def _table(levels: Sequence[Measurement]) -> Table:
    rows = [[count(round(each.level)), share_text(each), interval(each)] for each in levels]
    header = ["Draws a gradient", "Accuracy", "95 % interval"]
    caption = "Attacked accuracy by how many draws each gradient is the mean of."
    return Table("The same numbers as a table", header, rows, caption, is_folded=True)


def _figure(sweep: Sweep, levels: Sequence[Measurement]) -> Figure:
    draws = [each.level for each in levels]
    trace = share_series(sweep.attack, levels, 0, _told, error_y=intervals_of(levels))
    ticks = {"tickvals": draws, "ticktext": [f"{number:g}" for number in draws]}
    x = axis("draws of the weights a gradient", **logarithmic(draws) | ticks)
    top = min(1.04, max(0.05, 1.15 * max(each.upper or 0.0 for each in levels)))
    y = axis("accuracy", tickformat=".0%", range=[-0.02 * top, top])
    caption = (
        f"Accuracy under {sweep.attack} at epsilon {epsilon_text(sweep.epsilon)} on the first "
        f"{count(sweep.num_examples)} test examples, against how many draws of the weights each gradient is "
        "the mean of. Bars are 95 % intervals; the axis of draws is logarithmic."
    )
    title, layout = "Accuracy against draws a gradient", {"showlegend": False}
    return chart([trace], title, caption, x=x, y=y, height=340, layout=layout)


def _told(level: Measurement) -> list[str]:
    return [f"{_draws(level.level)} a gradient", f"accuracy {share_text(level)}"]
