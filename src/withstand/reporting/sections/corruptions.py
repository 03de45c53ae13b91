"""Accuracy on corrupted images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from markupsafe import Markup

from withstand.reporting.figures import SHARES, axis, chart, hover, reference, share_series
from withstand.reporting.read import Run
from withstand.reporting.section import Cell, Figure, Prose, Section, Table
from withstand.reporting.table import chance_of, clean, corruption_mean, rows, select
from withstand.reporting.wording import cell, count, percent, sentence, share_text
from withstand.results.measurements import CORRUPTED, Measurement
from withstand.results.results import CorruptionKind

PLACE = 20
_SUMMARY = Markup(
    "Over {} kinds of corruption and their severities the mean accuracy is <b>{}</b>; on clean images it is "
    "{}. Nothing here is chosen to mislead the network, and nothing is proven: these are accuracies on "
    "images that are blurred, dimmed or moved as drawn."
)
_FIGURE = (
    "Accuracy on corrupted images, from severity 1, slight, to 5, severe. The broad grey line is the mean "
    "over the kinds. The table holds the same numbers; a point's text holds its interval."
)
_TABLE = (
    "Accuracy on {} test images at each severity, and the value of the kind's parameter there. A deeper "
    "ground is a higher accuracy."
)

_Shares = Sequence[tuple[CorruptionKind, Sequence[Measurement]]]


def section(run: Run) -> Section | None:
    """Accuracy of each kind at each severity; None where no kind has any."""
    corruptions = run.results.corruptions if run.results else None
    table = select(run.table, CORRUPTED).sort_values("level", kind="stable")
    mean = corruption_mean(table)
    if corruptions is None or mean is None:
        return None
    shares = [(kind, rows(select(table, CORRUPTED, by=kind.name))) for kind in corruptions.kinds]
    shares = [(kind, of_kind) for kind, of_kind in shares if of_kind]
    values: dict[float, list[float]] = {}
    for share in rows(table):
        values.setdefault(share.level, []).append(share.value)
    means = {severity: _mean(of_all) for severity, of_all in values.items()}
    total = int(table.total.iloc[0])
    last = [
        Cell("Mean over kinds"),
        *(_shaded(each, percent(each, total)) for each in (*means.values(), mean)),
    ]
    header = ["Kind", *(f"Severity {severity:g}" for severity in means), "Mean"]
    body = [*(_row(*of_kind, list(means), total) for of_kind in shares), last]
    return Section(
        key="corruptions",
        title="Corruptions",
        tab="noise",
        prose=[Prose(_SUMMARY.format(len(shares), percent(mean, total), share_text(clean(run))))],
        figures=[_figure(shares, means, chance_of([run]))],
        tables=[Table("Corruptions", header, body, _TABLE.format(count(total)), kind="compare heat")],
        notes=[Prose(sentence(corruptions.description), "small")],
        measures=[CORRUPTED],
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _row(
    kind: CorruptionKind, shares: Sequence[Measurement], severities: Sequence[float], total: int
) -> list[Cell]:
    cells = dict.fromkeys(severities, Cell("not measured", is_words=True))
    cells |= {
        share.level: _shaded(share.value, share_text(share), f"at {_parameter(kind, share):.4g}")
        for share in shares
    }
    mean = _mean([share.value for share in shares])
    return [Cell(kind.title, [kind.parameter]), *cells.values(), _shaded(mean, percent(mean, total))]


def _parameter(kind: CorruptionKind, share: Measurement) -> float:
    return kind.values[kind.severities.index(round(share.level))]


def _shaded(share: float, text: str, *small: str) -> Cell:
    return Cell(text, small, is_bold=True, shade=share)


def _figure(shares: _Shares, means: Mapping[float, float], chance: float | None) -> Figure:
    """A curve a kind, and their mean as a broad grey line."""
    mean = reference("mean over kinds", list(means), list(means.values()), width=6, dash="solid")
    texts = [hover("mean over kinds", f"severity {at:g}: {percent(share)}") for at, share in means.items()]
    mean.update(hovertext=texts, hoverinfo="text", opacity=0.55)

    def told(kind: CorruptionKind, share: Measurement) -> list[str]:
        at = f"severity {share.level:g}, {kind.parameter}: {cell(_parameter(kind, share))}"
        return [at, f"accuracy {share_text(share)}"]

    curves = [
        share_series(kind.title, of_kind, index, partial(told, kind))
        for index, (kind, of_kind) in enumerate(shares)
    ]
    x = axis("severity", rangemode="normal", tickmode="array", tickvals=list(means))
    y = axis("accuracy", **SHARES)
    return chart([mean, *curves], "Accuracy against severity", _FIGURE, x=x, y=y, height=400, chance=chance)
