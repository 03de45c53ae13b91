"""How the files of a run folder spell a share and its interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypedDict

__all__ = ["Accuracy", "Between", "CurvePoint", "Share"]


@dataclass(frozen=True)
class Between:
    """The range of a number, ends included."""

    lowest: float
    highest: float


Share = Annotated[float, Between(0.0, 1.0)]


class Accuracy(TypedDict):
    """A share of test examples with its 95 % Clopper-Pearson interval, all in [0, 1]."""

    accuracy: Share
    lower: Share
    upper: Share
    correct: int
    total: int


class CurvePoint(Accuracy):
    """Attacked or certified accuracy at one epsilon, in units of the images' [0, 1]."""

    epsilon: float
