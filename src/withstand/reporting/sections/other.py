"""Whatever was measured that no other section shows, such as by a meter of the user's own."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from withstand.reporting.figures import axis, chart, intervals_of, share_series
from withstand.reporting.formatting import cell, counted, interval, norm_text, share_text
from withstand.reporting.read import Run
from withstand.reporting.section import Cell, Figure, Section, Table
from withstand.reporting.table import rows, select
from withstand.results.measurements import Measurement

_HEADER = ("Measure", "By", "Norm", "Level", "Value", "95 % interval", "Count")
_TABLE = "What was measured beside all that has a section of its own; level is an epsilon or the like."


def section(run: Run, claimed: Collection[str]) -> Section | None:
    """A table of all measures that are not claimed, and a figure of each that has several levels.

    Args:
        run: The run.
        claimed: Measures that other sections show.
    """
    unclaimed = [measure for measure in run.table["measure"].unique() if measure not in claimed]
    measured = {measure: rows(select(run.table, measure).sort_values("level")) for measure in unclaimed}
    if not measured:
        return None
    body = [_row(each) for of_one in measured.values() for each in of_one]
    with_levels = {
        name: of_one for name, of_one in measured.items() if len({each.level for each in of_one}) > 1
    }
    return Section(
        key="other",
        title="Other measurements",
        tab="answers",
        figures=[_figure(measure, of_one) for measure, of_one in with_levels.items()],
        tables=[Table("Other measurements", _HEADER, body, _TABLE)],
        across=2,
    )


def _row(each: Measurement) -> list[Cell]:
    words = [Cell(each.by, is_words=True), Cell(norm_text(each.norm), is_words=True)]
    numbers = [cell(each.level), _value(each), interval(each), counted(each)]
    return [Cell(each.measure), *words, *map(Cell, numbers)]


def _value(each: Measurement) -> str:
    return cell(each.value) if each.total is None else share_text(each)


def _figure(measure: str, measured: Sequence[Measurement]) -> Figure:
    """A curve for whatever it was measured by, over its levels."""
    traces = []
    for index, (by, norm) in enumerate(dict.fromkeys((each.by, each.norm) for each in measured)):
        points = [each for each in measured if (each.by, each.norm) == (by, norm)]
        name = " ".join(filter(None, (by, norm_text(norm)))) or measure
        traces.append(share_series(name, points, index, _told, error_y=intervals_of(points)))
    title = measure[:1].upper() + measure[1:]
    caption = f"{title} at each level. Bars are 95 % intervals, where there are any."
    return chart(traces, title, caption, x=axis("level"), y=axis(measure), height=340)


def _told(each: Measurement) -> list[str]:
    return [f"level {cell(each.level)}: {_value(each)}"]
