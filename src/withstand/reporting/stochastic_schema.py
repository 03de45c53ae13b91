"""How ``metrics.json`` spells what was found of random answers, and under published protocols."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from withstand.reporting.shares_schema import Accuracy, CurvePoint, Share

__all__ = [
    "Histogram",
    "ProtocolAttack",
    "ProtocolFigures",
    "Sampling",
    "Sweep",
    "SweepLevel",
    "Typical",
    "Uncertainty",
    "UncertaintySet",
]


class SweepLevel(Accuracy):
    """Attacked accuracy where each gradient is the mean of so many draws."""

    num_samples: int


class Sweep(TypedDict):
    """One attack at one epsilon, with more and more draws a gradient.

    It has settled where more draws no longer lower the accuracy by as much as ``tolerance``, or by no more
    than twice the paired standard error.
    """

    attack: str
    epsilon: float
    num_examples: int
    tolerance: float
    levels: list[SweepLevel]
    has_settled: bool


class Sampling(TypedDict):
    """How a network of random answers is scored and attacked.

    ``num_samples`` are draws a prediction, ``num_repeats`` predictions an example, ``attack_samples`` draws a
    gradient; null where no attack drew any.
    """

    description: str
    num_samples: int
    num_repeats: int
    attack_samples: int | None
    sweep: NotRequired[Sweep | None]


class Typical(TypedDict):
    """Of all examples of a set, in nats."""

    mean: float
    median: float


class Histogram(TypedDict):
    """How many examples lie between each two edges (nats)."""

    edges: list[float]
    entropy: list[int]
    expected_entropy: list[int]
    mutual_information: list[int]


class UncertaintySet(TypedDict):
    """One set of images; ``kind`` is ``"clean"``, ``"attacked"`` or ``"out-of-distribution"``.

    ``auroc`` is the area under the curve of telling it from the clean set by the entropy.
    """

    name: str
    kind: str
    num_examples: int
    accuracy: Share | None
    calibration_error: Share | None
    entropy: Typical
    expected_entropy: Typical
    mutual_information: Typical
    auroc: Share | None
    histogram: Histogram


class Uncertainty(TypedDict):
    """How unsure the answers are, by draws of the weights."""

    description: str
    num_samples: int
    num_classes: int
    sets: list[UncertaintySet]


class ProtocolAttack(TypedDict):
    """An attack of a published protocol at its epsilons."""

    name: str
    norm: str
    description: NotRequired[str | None]
    curve: list[CurvePoint]


class ProtocolFigures(TypedDict):
    """What a published protocol measures of this model."""

    name: str
    description: str
    num_examples: int
    clean: Accuracy
    attacks: list[ProtocolAttack]
