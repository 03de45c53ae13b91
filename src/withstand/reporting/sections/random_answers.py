"""Networks whose answers are random: how they are scored, and attacked."""

from __future__ import annotations

from collections.abc import Sequence

from withstand.evaluation.random_results import Sweep, SweepLevel
from withstand.reporting.figures import axis, chart, hover, intervals_of, logarithmic, series
from withstand.reporting.read import Run
from withstand.reporting.section import Figure, Prose, Section, Table
from withstand.reporting.wording import count, epsilon_text, interval, sentence, share_text

__all__ = ["PLACE", "section"]

PLACE = 30
_MEANING = (
    "The weights are drawn anew for each prediction, so that the network may answer the same image "
    "differently. A prediction is the class of the highest mean probability over its draws. Each example is "
    "predicted several times; accuracies are shares of all these predictions, and their intervals count each "
    "example once."
)


def section(run: Run) -> Section | None:
    """The draws behind predictions and gradients, and whether more of them would break more examples."""
    sampling = run.results.sampling if run.results else None
    if sampling is None:
        return None
    sweep, drawn = sampling.sweep, sampling.attack_samples
    levels = sorted(sweep.levels, key=lambda level: level.num_samples) if sweep else []
    return Section(
        key="random",
        title="Random answers",
        tab="attacks",
        prose=[
            Prose(_MEANING, "meaning", "How it is scored."),
            *([Prose(_verdict(sweep, levels, drawn))] if sweep and levels else []),
        ],
        figures=[_figure(sweep, levels)] if sweep and levels else [],
        tables=[_table(levels)] if levels else [],
        facts=[
            ("Draws a prediction", count(sampling.num_samples)),
            ("Predictions an example", count(sampling.num_repeats)),
            *([] if drawn is None else [("Draws an attack's gradient", count(drawn))]),
        ],
        notes=[Prose(sentence(sampling.description), "small")],
        is_brief=True,
    )


def _verdict(sweep: Sweep, levels: Sequence[SweepLevel], chosen: int | None) -> str:
    """Whether more draws still break more."""
    first, last = levels[0], levels[-1]
    tolerance = f"{100 * sweep.tolerance:.3g} points"
    course = (
        f"From {_draws(first.num_samples)} a gradient to {last.num_samples} the accuracy under "
        f"{sweep.attack} at epsilon {epsilon_text(sweep.epsilon)} goes from {share_text(first)} to "
        f"{share_text(last)}."
    )
    if sweep.has_settled:
        said = f"It has settled: two doublings of the draws together lower it by less than {tolerance}"
        average = "" if chosen is None else f" The attacks of this evaluation average {_draws(chosen)}."
        return f"{course} {said}.{average}"
    return (
        f"{course} It has not settled: the last two doublings lowered it by {tolerance} or more, so more "
        "draws may find more, and the attacked accuracies here are likely too high."
    )


def _draws(number: int) -> str:
    return "1 draw" if number == 1 else f"{number} draws"


def _table(levels: Sequence[SweepLevel]) -> Table:
    rows = [[count(each.num_samples), share_text(each), interval(each)] for each in levels]
    caption = "Attacked accuracy by how many draws each gradient is the mean of."
    return Table(
        "The same numbers as a table",
        ["Draws a gradient", "Accuracy", "95 % interval"],
        rows,
        caption,
        is_folded=True,
    )


def _figure(sweep: Sweep, levels: Sequence[SweepLevel]) -> Figure:
    draws = [level.num_samples for level in levels]
    texts = [
        hover(
            f"{_draws(level.num_samples)} a gradient",
            f"accuracy {share_text(level)}",
            f"95 % interval {interval(level)}",
        )
        for level in levels
    ]
    shares = [level.value for level in levels]
    trace = series(sweep.attack, draws, shares, 0, texts=texts, error_y=intervals_of(levels))
    ticks = {"tickvals": draws, "ticktext": [str(number) for number in draws]}
    top = min(1.04, max(0.05, 1.15 * max(level.upper for level in levels)))
    caption = (
        f"Accuracy under {sweep.attack} at epsilon {epsilon_text(sweep.epsilon)} on the first "
        f"{count(sweep.num_examples)} test examples, against how many draws of the weights each gradient is "
        "the mean of. Bars are 95 % intervals; the axis of draws is logarithmic."
    )
    return chart(
        [trace],
        "Accuracy against draws a gradient",
        caption,
        x=axis("draws of the weights a gradient", **logarithmic(draws) | ticks),
        y=axis("accuracy", tickformat=".0%", range=[-0.02 * top, top]),
        height=340,
        layout={"showlegend": False},
    )
