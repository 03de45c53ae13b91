"""A model's answers on noisy and on corrupted images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
from markupsafe import Markup

from withstand.core.writing import percent
from withstand.reporting import table
from withstand.reporting.figures import SHARES, axis, chart, hover, look, reference, share_series
from withstand.reporting.formatting import cell, count, interval, sentence, share_text
from withstand.reporting.read import Run
from withstand.reporting.section import PROSE, Cell, Figure, Prose, Section, Table
from withstand.reporting.table import area_over_levels, chance_of, clean, mean_over_levels, rows, select
from withstand.results.measurements import CORRUPTED, NOISE_ACCURACY, NOISE_AGREEMENT, Measurement
from withstand.results.results import CorruptionKind

PLACE = 10
NOISE_AXIS = "noise_std (data in [0, 1])"
_TEXTS, _OF_CORRUPTIONS = PROSE["noise"], PROSE["corruptions"]
_CURVES = {
    "accuracy": (NOISE_ACCURACY, "unclipped"),
    "agreement": (NOISE_AGREEMENT, "unclipped"),
    "accuracy, clipped": (NOISE_ACCURACY, "clipped"),
    "agreement, clipped": (NOISE_AGREEMENT, "clipped"),
}
_FEW_LEVELS = 6


def section(run: Run) -> list[Section | None]:
    """What the page shows of answers under Gaussian noise, and on corrupted images."""
    return [under_noise(run), corruptions(run)]


def under_noise(run: Run) -> Section | None:
    """Accuracy and agreement as the noise grows; None where there are no levels."""
    noise = run.results.noise if run.results else None
    measured = run.table.sort_values("level")
    curves = {name: rows(select(measured, of[0], by=of[1])) for name, of in _CURVES.items()}
    if noise is None or not all(curves.values()):
        return None
    last, number = curves["accuracy"][-1], len(curves["accuracy"])
    means = [percent(mean_over_levels(measured, *of) or 0.0) for of in _CURVES.values()]
    areas = [f"{area_over_levels(measured, *of) or 0.0:.3f}" for of in _CURVES.values()]
    summary = Markup(_TEXTS["summary"]).format(
        largest=last.level, mean=means[0], clipped_mean=means[2], area=areas[1], clipped_area=areas[3]
    )
    draws, once = (" and draws", ", which count each image once") if noise.num_draws > 1 else ("", "")
    caption = _TEXTS["table"].format(draws=draws, once=once, levels=number)
    return Section(
        key="noise",
        title="Under Gaussian noise",
        tab="noise",
        prose=[Prose(summary), Prose(_TEXTS["meaning"], "meaning", "How to read them.")],
        figures=[_noise_figure(curves, chance_of([run]))],
        tables=_noise_tables(curves, [["Mean", *means], ["Area", *areas]], caption),
        notes=[Prose(sentence(noise.description), "small")],
        measures=[NOISE_ACCURACY, NOISE_AGREEMENT],
    )


def _noise_tables(
    curves: Mapping[str, Sequence[Measurement]], summary: Sequence[Sequence[str]], caption: str
) -> list[Table]:
    """Some of the levels, spread from the first to the last, with mean and area; and all of them."""
    levels = [
        [Cell(f"{shares[0].level:.3g}"), *(Cell(share_text(share), [interval(share)]) for share in shares)]
        for shares in zip(*curves.values(), strict=True)
    ]
    few = [levels[place] for place in table.spread(len(levels), _FEW_LEVELS)]
    header = ["noise_std", *(name.capitalize() for name in curves)]
    tables = [Table("Under Gaussian noise", header, [*few, *summary], caption, kind="compare")]
    if len(few) < len(levels):
        title, caption = f"All {len(levels)} levels", "Shares at all levels, with their 95 % intervals."
        tables += [Table(title, header, levels, caption, is_folded=True, is_tall=True, kind="compare")]
    return tables


def _noise_figure(curves: Mapping[str, Sequence[Measurement]], chance: float | None) -> Figure:
    """One colour and marker a measure; dashed and open where the noisy image is clipped."""

    def lines_of(share: Measurement) -> list[str]:
        return [f"noise_std {share.level:.4g}: {share_text(share)}"]

    traces = []
    for place, (name, shares) in enumerate(curves.items()):
        symbol, dash = look(place % 2)["marker"]["symbol"], "solid"
        if name.endswith("clipped"):
            symbol, dash = f"{symbol}-open", "dash"
        style = {"line": {"dash": dash}, "marker": {"size": 6, "symbol": symbol}}
        traces.append(share_series(name, shares, place % 2, lines_of, **style))
    x, y = axis(NOISE_AXIS), axis("share of test images", **SHARES)
    title = "Answers under Gaussian noise"
    return chart(traces, title, _TEXTS["figure"], x=x, y=y, height=380, chance=chance)


def corruptions(run: Run) -> Section | None:
    """Accuracy of each kind at each severity; None where no kind has any."""
    results = run.results.corruptions if run.results else None
    measured = select(run.table, CORRUPTED).sort_values("level", kind="stable")
    if results is None or measured.empty:
        return None
    values = measured.pivot(index="by", columns="level", values="value").reindex(measured.by.unique())
    means = values.apply(_mean)
    kinds = [kind for kind in results.kinds if kind.name in values.index]
    total, mean = int(measured.total.iloc[0]), float(measured.value.mean())
    summary = Markup(_OF_CORRUPTIONS["summary"]).format(
        kinds=len(kinds), mean=percent(mean), clean=share_text(clean(run))
    )
    last = [_shaded(share) for share in (*means, mean)]
    header = ["Kind", *(f"Severity {severity:g}" for severity in values), "Mean"]
    body = [
        *(_corruption_row(kind, values.T[kind.name].to_dict()) for kind in kinds),
        [Cell("Mean over kinds"), *last],
    ]
    caption = _OF_CORRUPTIONS["table"].format(total=count(total))
    return Section(
        key="corruptions",
        title="Corruptions",
        tab="noise",
        prose=[Prose(summary)],
        figures=[_corruptions_figure(measured, kinds, means, chance_of([run]))],
        tables=[Table("Corruptions", header, body, caption, kind="compare heat")],
        notes=[Prose(sentence(results.description), "small")],
        measures=[CORRUPTED],
    )


def _mean(shares: pd.Series[float]) -> float:
    known = shares.dropna().tolist()
    return sum(known) / len(known)


def _corruption_row(kind: CorruptionKind, shares: Mapping[Any, float]) -> list[Cell]:
    cells = [
        Cell("not measured", is_words=True)
        if pd.isna(share)
        else _shaded(share, f"at {_parameter(kind, severity):.4g}")
        for severity, share in shares.items()
    ]
    return [Cell(kind.title, [kind.parameter]), *cells, _shaded(_mean(pd.Series(shares)))]


def _parameter(kind: CorruptionKind, severity: float) -> float:
    return kind.values[kind.severities.index(round(severity))]


def _shaded(share: float, *small: str) -> Cell:
    return Cell(percent(share), small, is_bold=True, shade=share)


def _corruptions_figure(
    measured: pd.DataFrame, kinds: Sequence[CorruptionKind], means: pd.Series[float], chance: float | None
) -> Figure:
    """A curve a kind, and their mean as a broad grey line."""

    def lines_of(kind: CorruptionKind, share: Measurement) -> list[str]:
        at = f"severity {share.level:g}, {kind.parameter}: {cell(_parameter(kind, share.level))}"
        return [at, f"accuracy {share_text(share)}"]

    mean = reference("mean over kinds", list(means.index), list(means), width=6, dash="solid")
    texts = [hover("mean over kinds", f"severity {at:g}: {percent(share)}") for at, share in means.items()]
    mean.update(hovertext=texts, hoverinfo="text", opacity=0.55)
    shares = [rows(measured[measured.by == kind.name]) for kind in kinds]
    curves = [
        share_series(kind.title, of_kind, index, partial(lines_of, kind))
        for index, (kind, of_kind) in enumerate(zip(kinds, shares, strict=True))
    ]
    x = axis("severity", rangemode="normal", tickmode="array", tickvals=list(means.index))
    title, caption, y = "Accuracy against severity", _OF_CORRUPTIONS["figure"], axis("accuracy", **SHARES)
    return chart([mean, *curves], title, caption, x=x, y=y, height=400, chance=chance)
