"""A model's answers under Gaussian noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from withstand.evaluation.measurements import NOISE_ACCURACY, NOISE_AGREEMENT, Measurement
from withstand.reporting.figures import SHARES, axis, chart, hover, look, series
from withstand.reporting.read import Run
from withstand.reporting.section import Cell, Figure, Prose, Section, Table
from withstand.reporting.table import area_over_levels, chance_of, mean_over_levels, rows, select
from withstand.reporting.wording import interval, percent, sentence, share_text

__all__ = ["NOISE_AXIS", "PLACE", "section"]

PLACE = 10
NOISE_AXIS = "noise_std (images in [0, 1])"
_CURVES = {
    "accuracy": (NOISE_ACCURACY, "unclipped"),
    "agreement": (NOISE_AGREEMENT, "unclipped"),
    "accuracy, clipped": (NOISE_ACCURACY, "clipped"),
    "agreement, clipped": (NOISE_AGREEMENT, "clipped"),
}
_FEW_LEVELS = 6
_SUMMARY = Markup(
    "Over noise_std from 0 to {} the mean accuracy is <b>{}</b>, and {} where noisy images are clipped to "
    "[0, 1]. The area under the curve of agreement is <b>{:.3f}</b>, and {:.3f} clipped."
)
_MEANING = (
    "Accuracy is the share of test images whose noisy copy is classified as its label says, agreement the "
    "share whose prediction stays what it is without noise. Agreement is not accuracy: a constant answer "
    "scores 1, and so may a wrong one. Nothing is certified here: what these draws did not change, other "
    "draws or an attack may."
)

_Curves = Mapping[str, Sequence[Measurement]]


def section(run: Run) -> Section | None:
    """Accuracy and agreement as the noise grows; None where there are no levels."""
    noise = run.results.noise if run.results else None
    table = run.table.sort_values("level")
    curves = {name: rows(select(table, measure, by=by)) for name, (measure, by) in _CURVES.items()}
    if noise is None or not all(curves.values()):
        return None
    total = curves["accuracy"][0].total or 0
    means = [mean_over_levels(table, measure, by) or 0.0 for measure, by in _CURVES.values()]
    areas = [area_over_levels(table, measure, by) or 0.0 for measure, by in _CURVES.values()]
    largest = f"{curves['accuracy'][-1].level:.4g}"
    summary = _SUMMARY.format(largest, percent(means[0], total), percent(means[2], total), areas[1], areas[3])
    ends = [
        ["Mean", *(percent(mean, total) for mean in means)],
        ["Area", *(f"{area:.3f}" for area in areas)],
    ]
    return Section(
        key="noise",
        title="Under Gaussian noise",
        tab="noise",
        prose=[Prose(summary), Prose(_MEANING, "meaning", "How to read them.")],
        figures=[_figure(curves, chance_of([run]))],
        tables=_tables(_level_rows(curves), ends, has_draws=noise.num_draws > 1),
        notes=[Prose(sentence(noise.description), "small")],
        measures=[NOISE_ACCURACY, NOISE_AGREEMENT],
    )


def _level_rows(curves: _Curves) -> list[list[Cell]]:
    return [
        [Cell(f"{shares[0].level:.3g}"), *(Cell(share_text(share), [interval(share)]) for share in shares)]
        for shares in zip(*curves.values(), strict=True)
    ]


def _tables(levels: Sequence[list[Cell]], ends: Sequence[list[str]], *, has_draws: bool) -> list[Table]:
    """Some of the levels, spread from the first to the last, with mean and area; and all of them."""
    last = len(levels) - 1
    spread = {round(last * number / (_FEW_LEVELS - 1)) for number in range(_FEW_LEVELS)}
    few = [level for number, level in enumerate(levels) if number in spread]
    header = ["noise_std", *(name.capitalize() for name in _CURVES)]
    caption = (
        f"Shares of test images{' and draws' if has_draws else ''} with their 95 % intervals"
        f"{', which count each image once' if has_draws else ''}. Mean is over all {len(levels)} levels; "
        "area is that under the curve by the trapezoid rule, divided by the range of noise_std."
    )
    first = Table("Under Gaussian noise", header, [*few, *ends], caption, kind="compare")
    if len(few) == len(levels):
        return [first]
    title, caption = f"All {len(levels)} levels", "Shares at all levels, with their 95 % intervals."
    return [first, Table(title, header, levels, caption, is_folded=True, is_tall=True, kind="compare")]


def _figure(curves: _Curves, chance: float | None) -> Figure:
    """One colour and marker a measure; dashed and open where the noisy image is clipped."""
    traces = []
    for place, (name, shares) in enumerate(curves.items()):
        index, is_clipped = place % 2, name.endswith("clipped")
        symbol = look(index)["marker"]["symbol"]
        trace = series(
            name,
            [share.level for share in shares],
            [share.value for share in shares],
            index,
            texts=[
                hover(
                    name, f"noise_std {each.level:.4g}: {share_text(each)}", f"95 % interval {interval(each)}"
                )
                for each in shares
            ],
            line={"dash": "dash" if is_clipped else "solid"},
            marker={"size": 6, "symbol": f"{symbol}-open" if is_clipped else symbol},
        )
        traces.append(trace)
    caption = (
        "Accuracy against the labels, and agreement with the prediction without noise, as the noise grows. "
        "Dashed curves with open markers are of noisy images clipped to [0, 1]. The table holds each point's "
        "interval."
    )
    return chart(
        traces,
        "Answers under Gaussian noise",
        caption,
        x=axis(NOISE_AXIS),
        y=axis("share of test images", **SHARES),
        height=380,
        chance=chance,
    )
