"""How ``metrics.json`` spells checks, corruptions, smoothing, calibration and what befalls each class."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from withstand.reporting.shares_schema import Accuracy, Between, CurvePoint, Radius, Share

__all__ = [
    "Bin",
    "Calibration",
    "Check",
    "ClassRow",
    "Classes",
    "Confusion",
    "ConfusionUnderAttack",
    "CorruptionKind",
    "CorruptionLevel",
    "Corruptions",
    "Measure",
    "Smoothing",
    "Stage",
]


class Stage(TypedDict):
    """One attack of a suite; ``kind`` is ``"white-box"``, ``"black-box"`` or ``"transfer"``."""

    name: str
    kind: str
    description: NotRequired[str | None]


class Check(TypedDict):
    """A check for false robustness; ``passed`` is null where it was not run, and ``finding`` says why."""

    name: str
    title: str
    passed: bool | None
    finding: str


class CorruptionLevel(Accuracy):
    """Accuracy at one severity, and the value of the kind's parameter there."""

    severity: Annotated[int, Between(1, 5)]
    value: float


class CorruptionKind(TypedDict):
    """One kind of corruption at its severities; ``parameter`` says what grows, and its unit."""

    name: str
    title: str
    parameter: str
    levels: list[CorruptionLevel]


class Corruptions(TypedDict):
    """Accuracy on corrupted images; ``mean`` is over kinds and severities."""

    description: str
    num_examples: int
    kinds: list[CorruptionKind]
    mean: Share


class Smoothing(TypedDict):
    """What holds of the smoothed classifier, with a probability, in l2; abstaining is wrong.

    Its radii are 0 where it is wrong or abstains.
    """

    description: str
    noise_std: float
    failure_probability: Share
    num_selection: int
    num_estimation: int
    num_examples: int
    accuracy: Accuracy
    abstained: Accuracy
    curve: list[CurvePoint]
    radius: Radius


class Bin(TypedDict):
    """Examples whose confidence lies between two ends; null where there is none."""

    lower: Share
    upper: Share
    count: int
    confidence: Share | None
    accuracy: Share | None


class Calibration(TypedDict):
    """Confidence beside accuracy on clean images; ``error`` is their expected difference."""

    num_bins: int
    error: Share
    bins: list[Bin]


class Measure(TypedDict):
    """The attack or certificate that a column is of."""

    name: str
    norm: str
    epsilon: float


_ClassName = TypedDict("_ClassName", {"class": str})


class ClassRow(_ClassName):
    """Accuracies of one class."""

    clean: Accuracy
    attacked: Accuracy | None
    certified: Accuracy | None


class Classes(TypedDict):
    """Accuracies of each class, in label order."""

    attacked: Measure | None
    certified: Measure | None
    rows: list[ClassRow]


class ConfusionUnderAttack(Measure):
    """Counts under an attack: a row a true class, a column a predicted one."""

    matrix: list[list[int]]


class Confusion(TypedDict):
    """How many images of each class are taken for which."""

    class_names: list[str]
    clean: list[list[int]]
    attacked: ConfusionUnderAttack | None
