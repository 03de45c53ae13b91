"""The numbers of results: finite ones, shares, and shares with an interval. This module imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import scipy
from pydantic import Field

Finite = Annotated[float, Field(allow_inf_nan=False)]
Unit = Annotated[float, Field(ge=0, le=1)]

_TAIL = 0.025  # on either side of a 95 % interval


@dataclass(frozen=True)
class Share:
    """A share of outcomes with its 95 % Clopper-Pearson interval, all in [0, 1]."""

    value: Unit
    lower: Unit
    upper: Unit
    correct: int
    total: int


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
    num_correct, num_wrong = correct / draws, (total - correct) / draws
    return Share(
        value=correct / total,
        lower=float(scipy.stats.beta.ppf(_TAIL, num_correct, num_wrong + 1)) if correct else 0.0,
        upper=float(scipy.stats.beta.ppf(1 - _TAIL, num_correct + 1, num_wrong)) if correct < total else 1.0,
        correct=correct,
        total=total,
    )
