"""How the files of a run folder spell a share and its interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NotRequired, TypedDict

__all__ = ["Accuracy", "Between", "CurvePoint", "Radius", "Share", "StageCount"]


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


class StageCount(TypedDict):
    """How many examples one attack of a suite was given, and on how many of them it succeeded."""

    name: str
    num_attacked: int
    num_felled: int


class CurvePoint(Accuracy):
    """Attacked or certified accuracy at one epsilon, in units of the images' [0, 1].

    ``stages`` are those of a suite's attacks, in their order.
    """

    epsilon: float
    stages: NotRequired[list[StageCount]]


class Radius(TypedDict):
    """A summary of the certified radii of all examples, in units of the images' [0, 1]."""

    mean: float
    median: float
    largest: float
