"""Selections of the table of measurements that several sections share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pandas as pd

from withstand.core.writing import norm_text
from withstand.reporting.read import Run
from withstand.results.measurements import ATTACKED, CERTIFIED, CLEAN, CORRUPTED, NOISE_ACCURACY, Measurement
from withstand.results.results import Results

_MOST_SHOWN = 6  # epsilons of one norm
_ROUNDING = 1e-6


def rows(table: pd.DataFrame) -> list[Measurement]:
    """The rows of a selection, in their order; None where a cell is empty."""
    columns = [table[field.name].tolist() for field in fields(Measurement)]
    return [Measurement(*map(_known, record)) for record in zip(*columns, strict=True)]


def _known(cell: Any) -> Any:
    return None if cell is pd.NA or cell != cell else cell  # NaN alone differs from itself


def select(
    table: pd.DataFrame,
    measure: str,
    *,
    by: str | None = None,
    norm: str | None = None,
    level: float | None = None,
) -> pd.DataFrame:
    """The rows of a measure; with ``by``, ``norm`` or ``level`` only those, the level up to rounding."""
    is_chosen = table.measure == measure
    if by is not None:
        is_chosen &= table.by == by
    if norm is not None:
        is_chosen &= table.norm.map(norm_text) == norm_text(norm)
    if level is not None:
        is_chosen &= (table.level - level).abs() < _ROUNDING
    return table[is_chosen]


def one(table: pd.DataFrame, measure: str, **where: Any) -> Measurement | None:
    """The first row of what ``select`` chooses; None where that is empty."""
    return next(iter(rows(select(table, measure, **where).head(1))), None)


def clean(run: Run) -> Measurement:
    """Clean accuracy, which every evaluation measures."""
    return rows(select(run.table, CLEAN).head(1))[0]


def spread(number: int, most: int) -> list[int]:
    """Places of so many rows at most, evenly from the first to the last of a number."""
    return sorted({round((number - 1) * place / (most - 1)) for place in range(most)} if number else ())


def chance_of(runs: Sequence[Run]) -> float | None:
    """The accuracy of guessing, where all runs have as many classes; else None."""
    numbers = {run.results.num_classes for run in runs if run.results}
    return 1 / numbers.pop() if len(numbers) == 1 else None


def norms(run: Run) -> list[str]:
    """The norms that a run was attacked or certified in, in their order."""
    measured = [select(run.table, measure).norm for measure in (ATTACKED, CERTIFIED)]
    return list(dict.fromkeys(pd.concat(measured)))


def strongest(run: Run) -> list[Measurement]:
    """At each norm and epsilon above 0, the row of the attack that left the lowest accuracy."""
    return _first_of(select(run.table, ATTACKED).sort_values("value", kind="stable"))


def most_certified(run: Run) -> list[Measurement]:
    """At each norm and epsilon above 0, the row of the certificate that proves the most."""
    return _first_of(select(run.table, CERTIFIED).sort_values("value", kind="stable", ascending=False))


def _first_of(ordered: pd.DataFrame) -> list[Measurement]:
    """The first row at each norm and level above 0; by norm, as the table has them, and level."""
    order = list(ordered.sort_index().norm.unique())
    chosen = rows(ordered[ordered.level > 0].drop_duplicates(["norm", "level"]))
    return sorted(chosen, key=lambda row: (order.index(row.norm), row.level))


def at(measured: Sequence[Measurement], norm: str, level: float) -> Measurement | None:
    """The first of several rows at a norm and level; None where there is none."""
    return next((row for row in measured if _is_at(row, norm, level)), None)


def _is_at(row: Measurement, norm: str, epsilon: float) -> bool:
    return norm_text(row.norm) == norm_text(norm) and abs(row.level - epsilon) < _ROUNDING


def method_name(results: Results | None, certificate: str) -> str:
    """The method of a certificate in words: ``box and ball``."""
    infos = results.certificates if results else []
    methods = (info.method for info in infos if info.name == certificate)
    return next(methods, certificate).replace("_", " and ")


def headline_attacks(run: Run) -> list[Measurement]:
    """The strongest attack at each norm and epsilon; some of the epsilons where they are many.

    Those beside which a certified accuracy is shown are always among them.
    """
    proven = {(row.norm, row.level) for row in headline_certificates(run)}
    chosen: list[Measurement] = []
    for norm, rows_of_norm in itertools.groupby(strongest(run), key=lambda row: row.norm):
        of_norm = list(rows_of_norm)
        shown = spread(len(of_norm), _MOST_SHOWN)
        chosen += [row for place, row in enumerate(of_norm) if place in shown or (norm, row.level) in proven]
    return chosen


def headline_certificates(run: Run) -> list[Measurement]:
    """The certified accuracies to show first, for each norm in its order.

    Those at epsilons for which a certified figure is published; else the one at the largest epsilon
    at which more is certified than guessing gets correct.
    """
    if run.results is None:
        return []
    figures = [figure for figure in run.results.published if figure.measure == "certified"]
    places = [(figure.norm or "", figure.epsilon or 0.0) for figure in figures]
    chosen: list[Measurement] = []
    for _, rows_of_norm in itertools.groupby(most_certified(run), key=lambda row: row.norm):
        of_norm = list(rows_of_norm)
        published = [row for row in of_norm if any(_is_at(row, *place) for place in places)]
        better = [row for row in of_norm if row.value > 1 / run.results.num_classes]
        chosen += published or better[-1:] or of_norm[:1]
    return chosen


def mean_over_levels(table: pd.DataFrame, measure: str, by: str) -> float | None:
    """The mean of a measure over its levels; None where it was not measured."""
    values = select(table, measure, by=by).value.tolist()
    return sum(values) / len(values) if values else None


def area_over_levels(table: pd.DataFrame, measure: str, by: str) -> float | None:
    """The area under a measure over evenly spaced levels, by the trapezoid rule, divided by their range."""
    values = select(table, measure, by=by).sort_values("level").value
    means = values.rolling(2).mean().dropna() if len(values) > 1 else values
    return None if values.empty else float(means.mean())


def corruption_mean(table: pd.DataFrame) -> float | None:
    """The mean accuracy over kinds and severities of corruptions; None where none was measured."""
    values = select(table, CORRUPTED).value
    return None if values.empty else float(values.mean())


def noise_scale(run: Run) -> str | None:
    """Over what noise is summed up: ``30 levels of noise_std to 0.5``; None where there is none."""
    levels = select(run.table, NOISE_ACCURACY, by="unclipped").level
    if run.results is None or run.results.noise is None or levels.empty:
        return None
    shell = ", on the shell" if run.results.noise.shell else ""
    return f"{levels.nunique()} levels of noise_std to {levels.max():.4g}{shell}"
