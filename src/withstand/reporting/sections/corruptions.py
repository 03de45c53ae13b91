"""Accuracy on corrupted images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

from withstand.evaluation.measurements import CORRUPTED, Measurement
from withstand.evaluation.results import CorruptionKind
from withstand.reporting.figures import SHARES, axis, chart, hover, reference, series
from withstand.reporting.read import Run
from withstand.reporting.section import Cell, Figure, Prose, Section, Table
from withstand.reporting.table import chance_of, clean, rows, select
from withstand.reporting.wording import cell, count, interval, percent, sentence, share_text

__all__ = ["PLACE", "section"]

PLACE = 20
_SUMMARY = Markup(
    "Over {} kinds of corruption and their severities the mean accuracy is <b>{}</b>; on clean images it is "
    "{}. Nothing here is chosen to mislead the network, and nothing is proven: these are accuracies on "
    "images that are blurred, dimmed or moved as drawn."
)
_CAPTION = (
    "Accuracy on corrupted images, from severity 1, slight, to 5, severe. The broad grey line is the mean "
    "over the kinds. The table holds the same numbers; a point's text holds its interval."
)
_TABLE = (
    "Accuracy on {} test images at each severity, and the value of the kind's parameter there. A deeper "
    "ground is a higher accuracy."
)


_Shares = Mapping[float, tuple[Measurement, float]]


def section(run: Run) -> Section | None:
    """Accuracy of each kind at each severity; None where no kind has any."""
    corruptions = run.results.corruptions if run.results else None
    table = select(run.table, CORRUPTED)
    if corruptions is None or table.empty:
        return None
    kinds = [(kind, shares) for kind in corruptions.kinds if (shares := _shares(table, kind))]
    means = table.groupby("level").value.agg(lambda values: sum(values) / len(values))
    mean, total = float(table.value.mean()), int(table.total.iloc[0])
    body = [_row(kind, shares, list(means.index), total) for kind, shares in kinds]
    last = [Cell("Mean over kinds"), *(_shaded(each, percent(each, total)) for each in (*means, mean))]
    header = ["Kind", *(f"Severity {severity:g}" for severity in means.index), "Mean"]
    return Section(
        key="corruptions",
        title="Corruptions",
        tab="noise",
        prose=[Prose(_SUMMARY.format(len(kinds), percent(mean, total), share_text(clean(run))))],
        figures=[_figure(kinds, means, chance_of([run]))],
        tables=[
            Table("Corruptions", header, [*body, last], _TABLE.format(count(total)), kind="compare heat")
        ],
        notes=[Prose(sentence(corruptions.description), "small")],
        measures=[CORRUPTED],
    )


def _shares(table: pd.DataFrame, kind: CorruptionKind) -> _Shares:
    """Severity -> accuracy, and the value of the kind's parameter there."""
    values = dict(zip(kind.severities, kind.values, strict=True))
    measured = rows(select(table, CORRUPTED, by=kind.name).sort_values("level"))
    return {share.level: (share, values[round(share.level)]) for share in measured}


def _row(kind: CorruptionKind, shares: _Shares, severities: Sequence[float], total: int) -> list[Cell]:
    cells = [_cell(shares.get(severity)) for severity in severities]
    mean = sum(share.value for share, _ in shares.values()) / len(shares)
    return [Cell(kind.title, [kind.parameter]), *cells, _shaded(mean, percent(mean, total))]


def _cell(measured: tuple[Measurement, float] | None) -> Cell:
    if measured is None:
        return Cell("not measured", is_words=True)
    share, value = measured
    return _shaded(share.value, share_text(share), f"at {value:.4g}")


def _shaded(share: float, text: str, *small: str) -> Cell:
    return Cell(text, small, is_bold=True, shade=share)


def _figure(
    kinds: Sequence[tuple[CorruptionKind, _Shares]], means: pd.Series[float], chance: float | None
) -> Figure:
    """A curve a kind, and their mean as a broad grey line."""
    mean = reference("mean over kinds", list(means.index), list(means), width=6, dash="solid")
    texts = [hover("mean over kinds", f"severity {at:g}: {percent(share)}") for at, share in means.items()]
    mean.update(hovertext=texts, hoverinfo="text", opacity=0.55)
    return chart(
        [mean, *(_curve(kind, shares, place) for place, (kind, shares) in enumerate(kinds))],
        "Accuracy against severity",
        _CAPTION,
        x=axis("severity", rangemode="normal", tickmode="array", tickvals=list(means.index)),
        y=axis("accuracy", **SHARES),
        height=400,
        chance=chance,
    )


def _curve(kind: CorruptionKind, shares: _Shares, index: int) -> go.Scatter:
    texts = [
        hover(
            kind.title,
            f"severity {severity:g}, {kind.parameter}: {cell(value)}",
            f"accuracy {share_text(share)}",
            f"95 % interval {interval(share)}",
        )
        for severity, (share, value) in shares.items()
    ]
    return series(kind.title, list(shares), [share.value for share, _ in shares.values()], index, texts=texts)
