"""Runs under the published protocols, beside each other and beside adaptive attacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pandas as pd

from withstand.reporting.compare.comparison import Comparison, records
from withstand.reporting.compare.groups import Group, means_of
from withstand.reporting.compare.points import title_of
from withstand.reporting.section import Cell, Section, Table
from withstand.reporting.sections.published import TITLES, stands_for
from withstand.reporting.table import rows, select
from withstand.reporting.wording import as_published, percent
from withstand.results.measurements import protocol_measure

_SPACE, _TO = "\N{NO-BREAK SPACE}", "\N{EN DASH}"
_CAPTION = (
    "Accuracy in ℓ∞ with its 95 % interval: under the published protocol's attack at each epsilon, then what "
    "was published of it, and last, adaptive, under the strongest attack run here at the same epsilon, "
    "whatever its steps. Only the first compares with published figures; only the last says how robust a run "
    "is. Runs that differ in their seeds alone are one row, of their mean."
)


def section(compared: Comparison) -> Section | None:
    """Groups of runs under the published protocols; None where none was measured under one."""
    points = pd.DataFrame([row for place in range(len(compared.runs)) for row in _points(compared, place)])
    if points.empty:
        return None
    # Of two attacks of one name, that of the first protocol.
    points = points.drop_duplicates(["run", "aspect"])
    points["kind"] = points.by.where(points.by != "clean", "")
    means = means_of(points.sort_values(["kind", "level"], kind="stable"), compared.groups)
    names = means.sort_values(["kind", "level"], kind="stable").aspect.unique()
    shown: list[list[Cell | str]] = []
    for group in compared.groups:
        own = means[means.index == group.members[0]].set_index("aspect")
        if len(own):
            number = len(group.members)
            label = group.label if number == 1 else f"{group.label}, mean of {number}"
            shown.append(
                [label, *(_cell(compared, group, own, means[means.aspect == name].iloc[0]) for name in names)]
            )
    title = "Under the published protocol"
    table = Table(
        title, ["Run", *names], shown, _CAPTION, is_sortable=True, is_tall=len(shown) > 12, kind="compare"
    )
    return Section("compare-protocols", title, "summary", tables=[table])


def _points(compared: Comparison, place: int) -> Iterator[dict[str, Any]]:
    """A run's accuracies, as means are made of; the aspect is the attack and epsilon."""
    run = compared.runs[place]
    for info in run.results.protocols if run.results else []:
        for row in rows(select(run.table, protocol_measure(info.name))):
            name = TITLES.get(row.by, row.by)
            aspect = name if row.by == "clean" else f"{name} {row.level:g}"
            yield asdict(row) | {"run": place, "aspect": aspect}


def _cell(compared: Comparison, group: Group, own: pd.DataFrame, of: pd.Series[Any]) -> Cell:
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


def _published(compared: Comparison, group: Group, own: pd.DataFrame, of: pd.Series[Any]) -> list[str]:
    """What was published of it; of clean accuracy where other figures of the protocol were."""
    results = [compared.runs[place].results for place in group.members]
    figures = [figure for each in results if each for figure in each.published]
    attacked = records(own[own.kind != ""])
    is_of_it = any(
        stands_for(figure, each.kind, "inf", each.level) for each in attacked for figure in figures
    )
    chosen = [
        figure
        for figure in figures
        if stands_for(figure, of.kind, "inf", of.level)
        or (of.kind == "" and figure.measure == "clean" and is_of_it)
    ]
    texts = [
        f"published {as_published(each.accuracy)}{f', {each.note}' if each.note else ''}" for each in chosen
    ]
    return list(dict.fromkeys(texts))


def _texts(mean: Any) -> tuple[str, str]:
    value, lower, upper = (percent(share, 10**6) for share in (mean.value, mean.lower, mean.upper))
    return value, f"{lower.partition(_SPACE)[0]}{_TO}{upper}"
