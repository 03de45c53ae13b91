"""Several runs as every section of their page sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from withstand.reporting.compare.groups import Group, groups_of, means_of
from withstand.reporting.compare.points import points_of
from withstand.reporting.naming import run_labels
from withstand.reporting.read import Run

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
