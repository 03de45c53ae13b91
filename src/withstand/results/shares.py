"""The numbers of results: finite ones, shares, and shares with an interval. This module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

Finite = Annotated[float, Field(allow_inf_nan=False)]
Unit = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Share:
    """A share of outcomes with its 95 % Clopper-Pearson interval, all in [0, 1]."""

    value: Unit
    lower: Unit
    upper: Unit
    correct: int
    total: int
