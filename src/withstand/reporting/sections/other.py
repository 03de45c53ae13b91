"""Whatever was measured that no other section shows, such as by a meter of the user's own."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from withstand.core.writing import norm_text
from withstand.reporting.figures import axis, chart, intervals_of, share_series
from withstand.reporting.formatting import cell, counted, interval, share_text
from withstand.reporting.read import Run
from withstand.reporting.section import Cell, Figure, Section, Table
from withstand.reporting.table import rows, select
from withstand.results.measurements import Measurement

_HEADER = ("Measure", "By", "Norm", "Level", "Value", "95 % interval", "Count")
_TABLE = "What was measured beside all that has a section of its own; level is an epsilon or the like."


def section(run: Run, shown: Collection[str]) -> Section | None:
    """A table of all measures that no other section shows, and a figure of each that has several levels.

    Args:
        run: The run.
        shown: Measures that other sections show.
    """
    other_measures = [measure for measure in run.table["measure"].unique() if measure not in shown]
    measured = {measure: rows(select(run.table, measure).sort_values("level")) for measure in other_measures}
    if not measured:
        return None
    body = [_row(row) for of_one in measured.values() for row in of_one]
    with_levels = {
        name: of_one for name, of_one in measured.items() if len({row.level for row in of_one}) > 1
    }
    return Section(
        key="other",
        title="Other measurements",
        tab="answers",
        figures=[_figure(measure, of_one) for measure, of_one in with_levels.items()],
        tables=[Table("Other measurements", _HEADER, body, _TABLE)],
        across=2,
    )


def _row(row: Measurement) -> list[Cell]:
    words = [Cell(row.by, is_words=True), Cell(norm_text(row.norm), is_words=True)]
    numbers = [cell(row.level), _value(row), interval(row), counted(row)]
    return [Cell(row.measure), *words, *map(Cell, numbers)]


def _value(row: Measurement) -> str:
    return cell(row.value) if row.total is None else share_text(row)


def _figure(measure: str, measured: Sequence[Measurement]) -> Figure:
    """A curve for whatever it was measured by, over its levels."""
    traces = []
    for index, (by, norm) in enumerate(dict.fromkeys((row.by, row.norm) for row in measured)):
        points = [row for row in measured if (row.by, row.norm) == (by, norm)]
        name = " ".join(filter(None, (by, norm_text(norm)))) or measure
        traces.append(share_series(name, points, index, _hover_lines, error_y=intervals_of(points)))
    title = measure[:1].upper() + measure[1:]
    caption = f"{title} at each level. Bars are 95 % intervals, where there are any."
    return chart(traces, title, caption, x=axis("level"), y=axis(measure), height=340)


def _hover_lines(row: Measurement) -> list[str]:
    return [f"level {cell(row.level)}: {_value(row)}"]
