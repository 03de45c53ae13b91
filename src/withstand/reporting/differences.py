"""What has changed between two evaluations of the same: figure by figure, and beside what was published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from withstand.reporting.table import rows
from withstand.results.measurements import ATTACKED, CERTIFIED, CLEAN, Measurement
from withstand.results.results import Published

Verdict = Literal["equal", "within its interval", "outside its interval", "changed", "new", "gone"]
"""``changed`` is a figure that has no interval."""
_MEASURES = {"clean": CLEAN, "attacked": ATTACKED, "certified": CERTIFIED}
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Difference:
    """One figure of two evaluations, one of which may lack it.

    Attributes:
        kept: As it was.
        now: As it is.
    """

    kept: Measurement | None
    now: Measurement | None

    @property
    def row(self) -> Measurement:
        """Whichever there is, for its names."""
        row = self.now or self.kept
        assert row is not None  # ``differences`` makes none of neither
        return row

    @property
    def verdict(self) -> Verdict:
        """Whether the figure is the same, or lies within the 95 % interval of what it was."""
        kept, now = self.kept, self.now
        if kept is None or now is None:
            return "new" if kept is None else "gone"
        if abs(kept.value - now.value) <= _ROUNDING:
            return "equal"
        if kept.lower is None or kept.upper is None:
            return "changed"
        return "within its interval" if kept.lower <= now.value <= kept.upper else "outside its interval"

    def published(self, figures: Sequence[Published]) -> Published | None:
        """What others published of the same measure, norm and epsilon; None where there is nothing."""
        row = self.row
        return next(
            (
                figure
                for figure in figures
                if _MEASURES[figure.measure] == row.measure
                and (figure.norm or "") == row.norm
                and abs((figure.epsilon or 0.0) - row.level) < _ROUNDING
            ),
            None,
        )


def differences(kept: pd.DataFrame, now: pd.DataFrame) -> list[Difference]:
    """The figures of two tables of measurements, each with its like, in the order of ``now``.

    Args:
        kept: With the columns of ``measurements.csv``.
        now: Likewise.
    """
    before, after = ({_key(row): row for row in rows(table)} for table in (kept, now))
    return [Difference(before.get(key), after.get(key)) for key in {**after, **before}]


def _key(row: Measurement) -> tuple[str, str, str, float]:
    return (row.measure, row.by, row.norm, round(row.level, 9))
