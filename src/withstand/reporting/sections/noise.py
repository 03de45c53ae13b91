"""A model's answers under Gaussian noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from withstand.reporting.figures import SHARES, axis, chart, look, share_series
from withstand.reporting.read import Run
from withstand.reporting.section import Cell, Figure, Prose, Section, Table
from withstand.reporting.table import area_over_levels, chance_of, mean_over_levels, rows, select
from withstand.reporting.wording import interval, percent, sentence, share_text
from withstand.results.measurements import NOISE_ACCURACY, NOISE_AGREEMENT, Measurement

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
    "Over noise_std from 0 to {:.4g} the mean accuracy is <b>{}</b>, and {} where noisy images are clipped "
    "to [0, 1]. The area under the curve of agreement is <b>{}</b>, and {} clipped."
)
_MEANING = (
    "Accuracy is the share of test images whose noisy copy is classified as its label says, agreement the "
    "share whose prediction stays what it is without noise. Agreement is not accuracy: a constant answer "
    "scores 1, and so may a wrong one. Nothing is certified here: what these draws did not change, other "
    "draws or an attack may."
)
_FIGURE = (
    "Accuracy against the labels, and agreement with the prediction without noise, as the noise grows. "
    "Dashed curves with open markers are of noisy images clipped to [0, 1]. The table holds each point's "
    "interval."
)
_TABLE = (
    "Shares of test images{} with their 95 % intervals{}. Mean is over all {} levels; area is that under the "
    "curve by the trapezoid rule, divided by the range of noise_std."
)


def section(run: Run) -> Section | None:
    """Accuracy and agreement as the noise grows; None where there are no levels."""
    noise = run.results.noise if run.results else None
    table = run.table.sort_values("level")
    curves = {name: rows(select(table, of[0], by=of[1])) for name, of in _CURVES.items()}
    if noise is None or not all(curves.values()):
        return None
    accuracy = curves["accuracy"]
    means = [percent(mean_over_levels(table, *of) or 0.0, accuracy[0].total or 0) for of in _CURVES.values()]
    areas = [f"{area_over_levels(table, *of) or 0.0:.3f}" for of in _CURVES.values()]
    draws = (" and draws", ", which count each image once") if noise.num_draws > 1 else ("", "")
    caption = _TABLE.format(*draws, len(accuracy))
    return Section(
        key="noise",
        title="Under Gaussian noise",
        tab="noise",
        prose=[
            Prose(_SUMMARY.format(accuracy[-1].level, means[0], means[2], areas[1], areas[3])),
            Prose(_MEANING, "meaning", "How to read them."),
        ],
        figures=[_figure(curves, chance_of([run]))],
        tables=_tables(curves, [["Mean", *means], ["Area", *areas]], caption),
        notes=[Prose(sentence(noise.description), "small")],
        measures=[NOISE_ACCURACY, NOISE_AGREEMENT],
    )


def _tables(
    curves: Mapping[str, Sequence[Measurement]], summary: Sequence[Sequence[str]], caption: str
) -> list[Table]:
    """Some of the levels, spread from the first to the last, with mean and area; and all of them."""
    levels = [
        [Cell(f"{shares[0].level:.3g}"), *(Cell(share_text(each), [interval(each)]) for each in shares)]
        for shares in zip(*curves.values(), strict=True)
    ]
    last = len(levels) - 1
    spread = {round(last * number / (_FEW_LEVELS - 1)) for number in range(_FEW_LEVELS)}
    few = [levels[place] for place in sorted(spread)]
    header = ["noise_std", *(name.capitalize() for name in curves)]
    tables = [Table("Under Gaussian noise", header, [*few, *summary], caption, kind="compare")]
    if len(few) < len(levels):
        title, caption = f"All {len(levels)} levels", "Shares at all levels, with their 95 % intervals."
        tables += [Table(title, header, levels, caption, is_folded=True, is_tall=True, kind="compare")]
    return tables


def _figure(curves: Mapping[str, Sequence[Measurement]], chance: float | None) -> Figure:
    """One colour and marker a measure; dashed and open where the noisy image is clipped."""
    traces = []
    for place, (name, shares) in enumerate(curves.items()):
        symbol, dash = look(place % 2)["marker"]["symbol"], "solid"
        if name.endswith("clipped"):
            symbol, dash = f"{symbol}-open", "dash"
        style = {"line": {"dash": dash}, "marker": {"size": 6, "symbol": symbol}}
        traces.append(share_series(name, shares, place % 2, _told, **style))
    x, y = axis(NOISE_AXIS), axis("share of test images", **SHARES)
    return chart(traces, "Answers under Gaussian noise", _FIGURE, x=x, y=y, height=380, chance=chance)


def _told(share: Measurement) -> list[str]:
    return [f"noise_std {share.level:.4g}: {share_text(share)}"]
