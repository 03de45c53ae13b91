"""The tables of runs: single ones with all to show first, and groups under the published protocols."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pandas as pd
from markupsafe import Markup

from withstand.core.writing import percent
from withstand.reporting import formatting
from withstand.reporting.compare.comparison import Comparison, aspects_of, records, title_of
from withstand.reporting.compare.groups import Group, means_of
from withstand.reporting.naming import command_for
from withstand.reporting.read import Run
from withstand.reporting.section import PROSE, Cell, Prose, Section, Table
from withstand.reporting.sections.accuracy import meaning
from withstand.reporting.sections.headlines import num_failed_checks, num_warnings
from withstand.reporting.sections.origin import cost_rows
from withstand.reporting.sections.published import TITLES, stands_for
from withstand.reporting.table import rows, select
from withstand.results.measurements import protocol_measure

_SPACE, _TO = "\N{NO-BREAK SPACE}", "\N{EN DASH}"
_CAPTIONS = PROSE["compare_results"]
_ORDER = {"clean": 0, "certified": 1, "attacked": 2, "noise": 3, "agreement": 3, "corruptions": 4}
_SHORTENED = "Legends name runs by what differs between their names."
_TITLES = {"Accuracy under corruptions": "Under corruptions"}


def results(compared: Comparison, *, title: str) -> Section:
    """All runs, one a row, under a heading.

    Args:
        compared: The runs.
        title: The heading.
    """
    aspects = aspects_of(compared.points)
    scales = {norm: place for place, norm in enumerate(aspects.norm[aspects.kind == "noise"])}
    order = sorted(records(aspects), key=lambda aspect: (_ORDER[aspect.kind], scales.get(aspect.norm, 0)))
    names = [str(aspect.Index) for aspect in order] or ["Clean"]
    datasets = list(dict.fromkeys(run.results.dataset for run in compared.runs if run.results))
    by_run = compared.points.set_index(["run", "aspect"]).to_dict("index")
    rows = [
        _row(compared, place, names, by_run, is_named=len(datasets) > 1)
        for place in range(len(compared.runs))
    ]
    captions = [
        text for kind, text in _CAPTIONS.items() if kind == "attacked" or (aspects.kind == kind).any()
    ]
    shortened = [] if compared.legends == compared.labels else [_SHORTENED]
    on = f"on {formatting.dataset_title(datasets[0])} " if len(datasets) == 1 else ""
    header = ["Run", *(["Data set"] if len(datasets) > 1 else []), *map(_heading, names), "Warnings", "Cost"]
    table = Table(
        title,
        header,
        rows,
        " ".join([f"Accuracy {on}with its 95 % interval.", *captions, *shortened]),
        is_sortable=True,
        is_tall=compared.are_many,
        kind="compare",
    )
    notes = [Prose(note, "note", "Data set.") for note in map(formatting.dataset_note, datasets) if note]
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
        if stop := run.environment and run.environment.stopped_early:
            sweep = "its sweep without --scheduler trains it to the end"
            text = Markup("stopped early after epoch {}: {}").format(stop["epoch"], sweep)
        cells = [Cell(text, is_words=True, span=len(names) + is_named)]
    else:
        cells = [Cell(formatting.dataset_title(run.results.dataset), is_words=True)] if is_named else []
        cells += [_cell(by_run.get((place, aspect))) for aspect in names]
    return [name, *cells, _warnings(run, place), _cost(run)]


def _cell(point: dict[str, Any] | None) -> Cell:
    if point is None:
        return Cell("not measured", is_words=True, kind="absent")
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


def protocols(compared: Comparison) -> Section | None:
    """Groups of runs under the published protocols; None where none was measured under one."""
    points = pd.DataFrame([row for place in range(len(compared.runs)) for row in _points(compared, place)])
    if points.empty:
        return None
    # Of two attacks of one name, that of the first protocol.
    points = points.drop_duplicates(["run", "aspect"])
    points["kind"] = points.by.where(points.by != "clean", "")
    means = means_of(points.sort_values(["kind", "level"], kind="stable"), compared.groups)
    aspects = records(means.sort_values(["kind", "level"], kind="stable").drop_duplicates("aspect"))
    shown: list[list[Cell | str]] = []
    for group in compared.groups:
        own = means[means.index == group.members[0]].set_index("aspect")
        if len(own):
            number = len(group.members)
            label = group.label if number == 1 else f"{group.label}, mean of {number}"
            shown.append([label, *(_mean_cell(compared, group, own, aspect) for aspect in aspects)])
    title, caption = "Under the published protocol", PROSE["compare_protocols"]["table"]
    header: list[Cell | str] = ["Run", *(aspect.aspect for aspect in aspects)]
    look: dict[str, Any] = {"is_sortable": True, "kind": "compare"}
    table = Table(title, header, shown, caption, is_tall=len(shown) > 12, **look)
    return Section("compare-protocols", title, "summary", tables=[table])


def _points(compared: Comparison, place: int) -> Iterator[dict[str, Any]]:
    """A run's accuracies, as means are made of; the aspect is the attack and epsilon."""
    run = compared.runs[place]
    for info in run.results.protocols if run.results else []:
        for row in rows(select(run.table, protocol_measure(info.name))):
            name = TITLES.get(row.by, row.by)
            aspect = name if row.by == "clean" else f"{name} {row.level:g}"
            yield asdict(row) | {"run": place, "aspect": aspect}


def _mean_cell(compared: Comparison, group: Group, own: pd.DataFrame, of: Any) -> Cell:
    """Under the protocol in bold, then what was published of it, and last under adaptive attacks."""
    adaptive = compared.mean("Clean" if of.kind == "" else title_of("attacked", "inf", of.level))
    adaptive = adaptive[adaptive.index == group.members[0]]
    beside = ["adaptive: not measured"]
    if len(adaptive):
        value, ends = _texts(adaptive.iloc[0])
        beside = [f"adaptive {value}", ends]
    small = [*_published(compared, group, own, of), *beside]
    if of.aspect not in own.index:
        return Cell("not measured", small, is_words=True)
    value, ends = _texts(own.loc[of.aspect])
    return Cell(value, [ends, *small], is_bold=True, sort=own.value[of.aspect])


def _published(compared: Comparison, group: Group, own: pd.DataFrame, of: Any) -> list[str]:
    """What was published of it; of clean accuracy where other figures of the protocol were."""
    results = [compared.runs[place].results for place in group.members]
    figures = [figure for run_results in results if run_results for figure in run_results.published]
    attacked = records(own[own.kind != ""])
    is_of_it = any(stands_for(figure, row.kind, "inf", row.level) for row in attacked for figure in figures)
    chosen = [
        figure
        for figure in figures
        if stands_for(figure, of.kind, "inf", of.level)
        or (of.kind == "" and figure.measure == "clean" and is_of_it)
    ]
    texts = [
        ", ".join(filter(None, (formatting.as_published(figure.accuracy), figure.note))) for figure in chosen
    ]
    return [f"published {text}" for text in dict.fromkeys(texts)]


def _texts(mean: Any) -> tuple[str, str]:
    value, lower, upper = (percent(share) for share in (mean.value, mean.lower, mean.upper))
    return value, f"{lower.partition(_SPACE)[0]}{_TO}{upper}"
