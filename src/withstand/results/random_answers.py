"""Results of answers that are drawn, and under published protocols. This module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from withstand.results.shares import Finite, Share, Unit

_MEASURES = {"entropy", "expected_entropy", "mutual_information"}


@dataclass(frozen=True)
class SweepLevel(Share):
    """Attacked accuracy where each gradient is the mean of so many draws."""

    num_samples: int


@dataclass(frozen=True)
class Sweep:
    """One attack at one epsilon, with more and more draws a gradient.

    It has settled where more draws no longer lower the accuracy by as much as ``tolerance``, or by no more
    than twice the paired standard error; ``chosen`` draws suffice.
    """

    attack: str
    epsilon: Finite
    num_examples: int
    tolerance: Finite
    levels: list[SweepLevel]
    has_settled: bool
    chosen: int


@dataclass(frozen=True)
class Sampling:
    """How a network of random answers is scored and attacked.

    ``num_samples`` are draws a prediction, ``num_repeats`` predictions an example, ``attack_samples`` draws a
    gradient; None where no attack drew any.
    """

    description: str
    num_samples: int
    num_repeats: int
    attack_samples: int | None
    sweep: Sweep | None = None


@dataclass(frozen=True)
class UncertaintySet:
    """One set of images, all numbers in nats; each histogram counts between the edges of ``Uncertainty``.

    ``auroc`` is the area under the curve of telling it from the clean set by the entropy.
    """

    name: str
    kind: Literal["clean", "attacked", "out-of-distribution"]
    num_examples: int
    accuracy: Unit | None
    calibration_error: Unit | None
    auroc: Unit | None
    means: dict[str, Finite]
    medians: dict[str, Finite]
    histograms: dict[str, list[int]]


@dataclass(frozen=True)
class Uncertainty:
    """How unsure answers are, by draws of the weights.

    The measures are ``entropy``, ``expected_entropy`` and ``mutual_information``.
    """

    description: str
    num_samples: int
    num_classes: int
    edges: list[Finite]
    sets: list[UncertaintySet]

    def __post_init__(self) -> None:
        for image_set in self.sets:
            if any(
                set(of) != _MEASURES
                for of in (list(image_set.means), list(image_set.medians), list(image_set.histograms))
            ):
                raise ValueError(f"means, medians and histograms must hold {', '.join(sorted(_MEASURES))}")
            if any(len(counts) != len(self.edges) - 1 for counts in image_set.histograms.values()):
                raise ValueError("histograms must hold a count between each two edges")


@dataclass(frozen=True)
class ProtocolInfo:
    """A published protocol; its accuracies are in the table.

    Attributes:
        name: Short.
        description: How it attacks and predicts.
        attacks: Name -> description.
    """

    name: str
    description: str
    attacks: dict[str, str]
