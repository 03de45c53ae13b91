"""Published figures beside ours."""

from __future__ import annotations

from withstand.reporting.read import Run
from withstand.reporting.section import Cell, Section, Table
from withstand.reporting.sections.protocols import is_of_protocol
from withstand.reporting.table import clean, method_name, most_certified_at, strongest_at
from withstand.reporting.wording import as_published, budget, interval, share_text
from withstand.results.measurements import Measurement
from withstand.results.results import Published

PLACE = 20
_CAPTION = "Ours as measured here; published figures stand as published and were not measured again."


def section(run: Run) -> Section | None:
    """Each published figure with ours at the same measure, norm and epsilon.

    Those that a section on their own protocol shows are left out.
    """
    published = run.results.published if run.results else []
    rows = [_row(run, figure) for figure in published if not is_of_protocol(run, figure)]
    if not rows:
        return None
    header = ["Accuracy", "Ours", "95 % interval", "Published", "Source"]
    table = Table("Beside published figures", header, rows, _CAPTION)
    return Section("published", "Beside published figures", "summary", tables=[table], is_brief=True)


def _row(run: Run, figure: Published) -> list[Cell | str]:
    name, ours, by = _ours(run, figure)
    measured = [Cell("not measured", is_words=True), Cell("\N{EM DASH}", is_words=True)]
    if ours:
        measured = [Cell(share_text(ours), [by] if by else []), Cell(interval(ours))]
    note = [figure.note] if figure.note else []
    return [
        name,
        *measured,
        Cell(as_published(figure.accuracy), ["as published"]),
        Cell(figure.source, note, is_words=True, kind="words"),
    ]


def _ours(run: Run, figure: Published) -> tuple[str, Measurement | None, str]:
    """What is compared, our figure, and the attack or certificate that it is by."""
    if figure.measure == "clean":
        return "clean", clean(run), ""
    if figure.norm is None or figure.epsilon is None:
        return figure.measure, None, ""
    name = f"{figure.measure} by {figure.attack}" if figure.attack else figure.measure
    name = f"{name}, {budget(figure.norm, figure.epsilon)}"
    if figure.measure == "attacked":
        ours = strongest_at(run, figure.norm, figure.epsilon)
        return name, ours, ours.by if ours else ""
    ours = most_certified_at(run, figure.norm, figure.epsilon)
    return name, ours, f"certified ({method_name(run.results, ours.by)})" if ours else ""
