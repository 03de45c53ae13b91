"""The table of single runs: every figure to show first, what warns of it, and what it cost."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from withstand.reporting.compare.comparison import Comparison, records
from withstand.reporting.compare.points import aspects_of
from withstand.reporting.naming import command_for
from withstand.reporting.read import Run
from withstand.reporting.section import Cell, Prose, Section, Table
from withstand.reporting.sections.accuracy import meaning
from withstand.reporting.sections.origin import cost_rows
from withstand.reporting.sections.results import num_failed_checks, num_warnings
from withstand.reporting.wording import dataset_note, dataset_title

_ORDER = {"clean": 0, "certified": 1, "attacked": 2, "noise": 3, "agreement": 3, "corruptions": 4}
_TITLES = {"Accuracy under corruptions": "Under corruptions"}
_CAPTIONS = {
    "attacked": "Attacked accuracy is that under the strongest attack run at that epsilon.",
    "certified": "Certified accuracy is proven, by the method named.",
    "noise": (
        "Under noise, accuracy is the mean over all levels; the area is that under the curve of agreement "
        "with the prediction without noise, at which a constant answer scores 1."
    ),
    "corruptions": "Under corruptions, accuracy is the mean over kinds and severities.",
}


def section(compared: Comparison, *, title: str) -> Section:
    """All runs, one a row, under a heading.

    Args:
        compared: The runs.
        title: The heading.
    """
    aspects = aspects_of(compared.points)
    scales = {norm: place for place, norm in enumerate(aspects.norm[aspects.kind == "noise"])}
    order = sorted(records(aspects), key=lambda each: (_ORDER[each.kind], scales.get(each.norm, 0)))
    names = [str(each.Index) for each in order] or ["Clean"]
    datasets = list(dict.fromkeys(run.results.dataset for run in compared.runs if run.results))
    by_run = compared.points.set_index(["run", "aspect"]).to_dict("index")
    rows = [
        _row(compared, place, names, by_run, is_named=len(datasets) > 1)
        for place in range(len(compared.runs))
    ]
    said = [text for kind, text in _CAPTIONS.items() if kind == "attacked" or (aspects.kind == kind).any()]
    on = f"on {dataset_title(datasets[0])} " if len(datasets) == 1 else ""
    header = ["Run", *(["Data set"] if len(datasets) > 1 else []), *map(_heading, names), "Warnings", "Cost"]
    table = Table(
        title,
        header,
        rows,
        " ".join([f"Accuracy {on}with its 95 % interval.", *said]),
        is_sortable=True,
        is_tall=compared.are_many,
        kind="compare",
    )
    notes = [Prose(note, "note", "Data set.") for note in map(dataset_note, datasets) if note]
    means = meaning(is_certified=bool((aspects.kind == "certified").any()))
    return Section("compare-results", title, "summary", tables=[table], notes=[*notes, means])


def _heading(aspect: str) -> Cell | str:
    """Over what noise is summed up stands below."""
    name, _, scale = aspect.partition(", ")
    if "level" in scale:
        return Cell(name, [scale])
    return _TITLES.get(aspect, aspect)


def _row(
    compared: Comparison, place: int, names: list[str], by_run: dict[Any, Any], *, is_named: bool
) -> list[Cell | str]:
    run = compared.runs[place]
    name = Cell(compared.labels[place], href=f"#run-{place + 1}")
    if run.results is None:
        text = Markup("not evaluated: <code>{}</code>").format(command_for(run, "evaluate"))
        cells = [Cell(text, is_words=True, span=len(names) + is_named)]
    else:
        cells = [Cell(dataset_title(run.results.dataset), is_words=True)] if is_named else []
        cells += [_cell(by_run.get((place, aspect))) for aspect in names]
    return [name, *cells, _warnings(run, place), _cost(run)]


def _cell(point: dict[str, Any] | None) -> Cell:
    if point is None:
        return Cell("not measured", is_words=True)
    small = [text for text in (point["interval"], point["by"]) if text]
    return Cell(point["text"], small, is_bold=point["kind"] != "agreement", sort=point["value"])


def _warnings(run: Run, place: int) -> Cell:
    number, failed = num_warnings(run), num_failed_checks(run)
    if not number:
        return Cell("none", is_words=True, sort=0)
    small = [f"{failed} failed check{'' if failed == 1 else 's'}"] if failed else []
    return Cell(str(number), small, is_bold=True, sort=number, href=f"#run-{place + 1}-warnings")


def _cost(run: Run) -> Cell:
    times = {name: text for name, text in cost_rows(run.environment) if name.endswith(" time")}
    small = [f"{name.removesuffix(' time')}: {text}" for name, text in times.items()]
    seconds = run.environment.cost.train_seconds if run.environment else None
    return Cell("" if small else "not known", small, is_words=True, sort=seconds, kind="costs")
