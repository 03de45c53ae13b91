"""Several runs as every section of their page sees them: their figures as one table, and their groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from withstand.core.writing import norm_text, percent
from withstand.reporting import table
from withstand.reporting.compare.groups import Group, groups_of, means_of
from withstand.reporting.formatting import budget, interval, share_text
from withstand.reporting.naming import run_labels, what_differs
from withstand.reporting.read import Run
from withstand.results import measurements
from withstand.results.measurements import CORRUPTED, NOISE_ACCURACY, NOISE_AGREEMENT, Measurement

_ORDER = ("clean", "attacked", "certified", "noise", "agreement", "corruptions", "time")
_COLUMNS = (
    *("run", "aspect", "kind", "norm", "level", "value", "lower", "upper", "total"),
    *("by", "column", "is_headline", "text", "interval"),
)
_MANY_RUNS = 8


@dataclass(frozen=True)
class Comparison:
    """Several runs, and what is computed of all of them once.

    Attributes:
        runs: All, the default baseline first.
    """

    runs: Sequence[Run]

    @property
    def are_many(self) -> bool:
        """Whether there are too many to show all of each at once."""
        return len(self.runs) > _MANY_RUNS

    @cached_property
    def labels(self) -> list[str]:
        """What each run is called."""
        return run_labels(self.runs)

    @cached_property
    def legends(self) -> list[str]:
        """What each run is called in a legend, by what differs between their names."""
        return what_differs(self.labels)

    @cached_property
    def points(self) -> pd.DataFrame:
        """Their figures, as ``points_of`` gives them."""
        return points_of(self.runs)

    @cached_property
    def values(self) -> pd.DataFrame:
        """Their figures, a row a run and a column an aspect."""
        return self.points.pivot(index="run", columns="aspect", values="value")

    @cached_property
    def groups(self) -> list[Group]:
        """Those that differ in their seeds alone together."""
        return groups_of(self.runs)

    @cached_property
    def means(self) -> pd.DataFrame:
        """The means of these groups, as ``means_of`` gives them."""
        return means_of(self.points, self.groups)

    def mean(self, aspect: str) -> pd.DataFrame:
        """The means in one aspect, a row a group."""
        return self.means[self.means.aspect == aspect]


def records(table: pd.DataFrame) -> list[Any]:
    """The rows of a table, each with its columns as attributes and its index as ``Index``."""
    return list(table.itertuples())


def points_of(runs: Sequence[Run]) -> pd.DataFrame:
    """The figures of all evaluated runs in which they can be compared, ordered by aspect.

    Returns:
        The columns

        - ``run``: Place among the runs.
        - ``aspect``: Title of what is compared, such as ``Attacked, ℓ∞ ε = 0.1``.
        - ``kind``: clean, attacked, certified, noise, agreement, corruptions, or time, which is in seconds.
        - ``norm``, ``level``: Of the attack or certificate; of noise the norm is over what it is summed up.
        - ``value``, ``lower``, ``upper``, ``total``: As in the table of measurements; the larger, the better.
        - ``by``: The attack, the method of the certificate, or the figure of clipped images.
        - ``column``: Of ``examples.csv``, whose mean the value is; empty where there is none.
        - ``is_headline``: Whether it is among those to show first.
        - ``text``, ``interval``: As they are written.
    """
    rows = [
        {"run": place, **point} for place, run in enumerate(runs) if run.results for point in _points(run)
    ]
    points = pd.DataFrame(rows, columns=list(_COLUMNS)).drop_duplicates(["run", "aspect"])
    order = points.kind.map(_ORDER.index)
    signs = points.norm.map(norm_text).where(order < _ORDER.index("noise"), "")
    ordered = points.assign(_order=order, _sign=signs).sort_values(
        ["_order", "_sign", "level"], kind="stable"
    )
    return ordered[list(_COLUMNS)].reset_index(drop=True)


def aspects_of(points: pd.DataFrame) -> pd.DataFrame:
    """Every aspect in which one of the runs has a figure to show first, in order; indexed by its title."""
    first = points[points.is_headline & (points.kind != "time")].drop_duplicates("aspect")
    return first.set_index("aspect")[["kind", "norm", "level"]]


def with_interval(point: Any) -> str:
    """A point's value and interval as one text: ``98.1 % (97.1-98.9 %)`` with an en dash."""
    return f"{point.text} ({point.interval})" if point.interval else str(point.text)


def title_of(kind: str, norm: str, level: float) -> str:
    """What an attacked or certified aspect is called."""
    return f"{kind.capitalize()}, {budget(norm, level)}"


def _points(run: Run) -> Iterator[dict[str, Any]]:
    yield _point("clean", "Clean", table.clean(run))
    shown = table.headline_attacks(run)
    for row in table.strongest(run):
        title = title_of("attacked", row.norm, row.level)
        yield _point("attacked", title, row, by=row.by, is_headline=row in shown)
    shown = table.headline_certificates(run)
    for row in table.most_certified(run):
        title, by = title_of("certified", row.norm, row.level), table.method_name(run.results, row.by)
        yield _point("certified", title, row, by=f"certified ({by})", is_headline=row in shown)
    yield from _under_noise(run)
    mean, rows = table.corruption_mean(run.table), table.select(run.table, CORRUPTED)
    if mean is not None:
        row = Measurement(CORRUPTED, value=mean, total=int(rows.total.iloc[0]))
        yield _point("corruptions", "Accuracy under corruptions", row)
    if run.environment and (seconds := run.environment.cost.train_seconds):
        row = Measurement("training time", value=seconds)
        yield _point("time", "Training time", row)


def _under_noise(run: Run) -> Iterator[dict[str, Any]]:
    scale = table.noise_scale(run)
    if scale is None:
        return
    total = int(table.select(run.table, NOISE_ACCURACY, by="unclipped").total.iloc[0])
    mean, clipped = (table.mean_over_levels(run.table, NOISE_ACCURACY, by) for by in ("unclipped", "clipped"))
    row = Measurement(NOISE_ACCURACY, norm=scale, value=mean or 0.0, total=total)
    by = "" if clipped is None else f"clipped {percent(clipped)}"
    yield _point("noise", f"Accuracy under noise, {scale}", row, by=by)
    area, clipped = (
        table.area_over_levels(run.table, NOISE_AGREEMENT, by) for by in ("unclipped", "clipped")
    )
    if area is not None:
        row = Measurement(NOISE_AGREEMENT, norm=scale, value=area, total=total)
        by = "" if clipped is None else f"clipped {clipped:.3f}"
        yield _point("agreement", f"Agreement area, {scale}", row, by=by) | {"text": f"{area:.3f}"}


def _point(
    kind: str, title: str, row: Measurement, *, by: str = "", is_headline: bool = True
) -> dict[str, Any]:
    return {
        "aspect": title,
        "kind": kind,
        **{name: getattr(row, name) for name in ("norm", "level", "value", "lower", "upper", "total")},
        "by": by,
        "column": measurements.example_column(row.measure, row.by, row.level) or "",
        "is_headline": is_headline,
        "text": share_text(row),
        "interval": interval(row),
    }
