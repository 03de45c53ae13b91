"""Whatever was measured that no other section shows, such as by a meter of the user's own."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from withstand.evaluation.measurements import Measurement
from withstand.reporting.figures import axis, chart, hover, intervals_of, series
from withstand.reporting.read import Run
from withstand.reporting.section import Cell, Figure, Section, Table
from withstand.reporting.table import rows, select
from withstand.reporting.wording import cell, counted, interval, norm_text, share_text

__all__ = ["section"]


def section(run: Run, claimed: Collection[str]) -> Section | None:
    """A table of all measures that are not claimed, and a figure of each that has several levels.

    Args:
        run: The run.
        claimed: Measures that other sections show.
    """
    measures = [measure for measure in run.table["measure"].unique() if measure not in claimed]
    if not measures:
        return None
    measured = {
        measure: rows(select(run.table, measure).sort_values("level", kind="stable")) for measure in measures
    }
    header = ["Measure", "By", "Norm", "Level", "Value", "95 % interval", "Count"]
    cells = [_row(each) for of_one in measured.values() for each in of_one]
    caption = "What was measured beside all that has a section of its own; level is an epsilon or the like."
    return Section(
        key="other",
        title="Other measurements",
        tab="answers",
        figures=[_figure(measure, of_one) for measure, of_one in measured.items() if _has_levels(of_one)],
        tables=[Table("Other measurements", header, cells, caption)],
        across=2,
    )


def _row(each: Measurement) -> list[Cell]:
    words = [Cell(each.by, is_words=True), Cell(norm_text(each.norm), is_words=True)]
    return [
        Cell(each.measure),
        *words,
        *map(Cell, (cell(each.level), _value(each), interval(each), counted(each))),
    ]


def _value(each: Measurement) -> str:
    return cell(each.value) if each.total is None else share_text(each)


def _has_levels(measured: Sequence[Measurement]) -> bool:
    return len({each.level for each in measured}) > 1


def _figure(measure: str, measured: Sequence[Measurement]) -> Figure:
    """A curve for whatever it was measured by, over its levels."""
    names = {
        f"{each.by or measure} {norm_text(each.norm)}".strip(): (each.by, each.norm) for each in measured
    }
    traces = []
    for index, (name, of) in enumerate(names.items()):
        points = [each for each in measured if (each.by, each.norm) == of]
        texts = [
            hover(name, f"level {cell(each.level)}: {_value(each)}", f"95 % interval {ends}" if ends else "")
            for each in points
            for ends in [interval(each)]
        ]
        at, values = [each.level for each in points], [each.value for each in points]
        traces.append(series(name, at, values, index, texts=texts, error_y=intervals_of(points)))
    title = measure[:1].upper() + measure[1:]
    caption = f"{title} at each level. Bars are 95 % intervals, where there are any."
    return chart(traces, title, caption, x=axis("level"), y=axis(measure), height=340)
