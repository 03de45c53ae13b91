"""From outcomes to shares with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import beta

from withstand.results.measurements import Measurement
from withstand.results.shares import Share

_TAIL = 0.025  # on either side of a 95 % interval


def share(outcomes: Sequence[float] | np.ndarray[Any, Any] | pd.Series[Any], draws: int = 1) -> Share:
    """The share of ones among outcomes, with its exact (Clopper-Pearson) 95 % interval.

    Args:
        outcomes: Zeros and ones, at least one; or, of several draws each, the shares of ones.
        draws: Outcomes an example.
    """
    return share_of(round(float(np.sum(np.asarray(outcomes))) * draws), len(outcomes) * draws, draws)


def share_of(correct: int, total: int, draws: int = 1) -> Share:
    """A share with its exact (Clopper-Pearson) 95 % interval.

    Draws of one example say little of other examples, so the interval is that of as many outcomes as
    there are examples, which is never too narrow.

    Args:
        correct: How many ones.
        total: Of how many outcomes, at least one.
        draws: Outcomes an example.
    """
    right, wrong = correct / draws, (total - correct) / draws
    return Share(
        value=correct / total,
        lower=float(beta.ppf(_TAIL, right, wrong + 1)) if correct else 0.0,
        upper=float(beta.ppf(1 - _TAIL, right + 1, wrong)) if correct < total else 1.0,
        correct=correct,
        total=total,
    )


def measured(measure: str, found: Share, *, by: str = "", norm: str = "", level: float = 0.0) -> Measurement:
    """A share as a row of the table."""
    return Measurement(
        measure, by, norm, level, found.value, found.lower, found.upper, found.correct, found.total
    )
