"""Results of an evaluation that its table of measurements cannot hold: ``metrics.json``.

What was measured by what, in words, and what has another shape, such as histograms. Evaluation writes these
types, reporting reads them. This module imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from withstand.core.flat import flat
from withstand.results.analytic import KernelNorms, Moments
from withstand.results.random_answers import ProtocolInfo, Sampling, Uncertainty
from withstand.results.shares import Finite, Share, Unit

Severity = Annotated[int, Field(ge=1, le=5)]

_NOT_RUN = re.compile(r"Not \w+")

SCHEMA = 2
"""Of ``metrics.json``; it grows when an older reader would misread the file."""


@dataclass(frozen=True)
class StageInfo:
    """One attack of several that are run one after another."""

    name: str
    kind: Literal["white-box", "black-box", "transfer"]
    description: str = ""


@dataclass(frozen=True)
class StageCounts:
    """At one epsilon, of each stage: examples that it attacked, and how many of them it broke."""

    epsilon: Finite
    attacked: list[int]
    broken: list[int]


@dataclass(frozen=True)
class AttackInfo:
    """An attack; its accuracies are in the table, under its name.

    One of several stages has ``counts``, one entry an epsilon.
    """

    name: str
    norm: str
    description: str = ""
    stages: list[StageInfo] = field(default_factory=list)
    counts: list[StageCounts] = field(default_factory=list)

    def __post_init__(self) -> None:
        if any(not len(counts.attacked) == len(counts.broken) == len(self.stages) for counts in self.counts):
            raise ValueError("counts must hold a number for each of the stages")


@dataclass(frozen=True)
class CertificateInfo:
    """A certificate; its accuracies and radii are in the table, under its name.

    Attributes:
        name: Of the certificate.
        norm: Of its balls.
        method: The domain that it bounds with.
        description: Its settings, in words.
        precision: In which the model runs, such as float32; None in results of older versions.
        rounding: The largest difference of a logit in that precision and in float64, of all clean images
            whose logits are finite; None where there is none, and in results of older versions.
        arithmetic: In words, in which arithmetic it is proven and in which the model runs.
        seconds: What it took an example, at all epsilons and with its radius; None in results of older
            versions.
    """

    name: str
    norm: str
    method: str
    description: str = ""
    precision: str | None = None
    rounding: Finite | None = None
    arithmetic: str = ""
    seconds: Finite | None = field(default=None, compare=False)

    @property
    def described(self) -> str:
        """Its settings and what it took, in words."""
        return self.description + (f"; {self.seconds:.2g} s an image" if self.seconds is not None else "")


@dataclass(frozen=True)
class Check:
    """A check for false robustness.

    ``passed`` is None where it was not run, and ``finding`` begins with why not, as ``Not needed: `` does.
    """

    name: str
    title: str
    passed: bool | None
    finding: str

    @property
    def outcome(self) -> str:
        """Passed, failed, not run, not needed or not decided."""
        if self.passed is not None:
            return "passed" if self.passed else "failed"
        beginning, colon, _ = self.finding.partition(": ")
        return beginning.lower() if colon and _NOT_RUN.fullmatch(beginning) else "not run"


@dataclass(frozen=True)
class Published:
    """A figure that somebody published; ``attack`` is that of the published protocol it belongs to."""

    measure: Literal["clean", "attacked", "certified"]
    accuracy: Unit
    source: str
    norm: str | None = None
    epsilon: float | None = None
    note: str = ""
    attack: str | None = None


@dataclass(frozen=True)
class Noise:
    """How answers under Gaussian noise were measured."""

    description: str
    num_draws: int
    shell: bool = False


@dataclass(frozen=True)
class CorruptionKind:
    """One kind of corruption: what its parameter is, and its value at each severity measured, ascending."""

    name: str
    title: str
    parameter: str
    severities: list[Severity]
    values: list[Finite]

    def __post_init__(self) -> None:
        if len(self.severities) != len(self.values):
            raise ValueError("values must hold one for each of the severities")


@dataclass(frozen=True)
class Corruptions:
    """How answers on corrupted images were measured."""

    description: str
    kinds: list[CorruptionKind]


@dataclass(frozen=True)
class Smoothing:
    """How a smoothed classifier was certified: each example holds but for ``failure_probability``."""

    description: str
    noise_std: Finite
    failure_probability: Unit
    num_selection: int
    num_estimation: int


@dataclass(frozen=True)
class Bin:
    """Clean examples whose confidence lies between two ends; None where there is none."""

    lower: Unit
    upper: Unit
    count: int
    confidence: Unit | None
    accuracy: Unit | None


@dataclass(frozen=True)
class Inputs:
    """What the examples were, and what of the user's units 0 and 1 stand for.

    Attributes:
        shape: Of one example, channels or features first.
        feature_names: One a channel or feature, or none.
        low: The value that 0 stands for, one a channel or feature; empty where the data were in [0, 1].
        high: The value that 1 stands for, likewise.
    """

    shape: list[int]
    feature_names: list[str] = field(default_factory=list)
    low: list[Finite] = field(default_factory=list)
    high: list[Finite] = field(default_factory=list)

    def __post_init__(self) -> None:
        counts = {len(values) for values in (self.feature_names, self.low, self.high) if values}
        if not self.shape or counts - {self.shape[0]} or len(self.low) != len(self.high):
            raise ValueError("inputs must hold a name and both ends of a range for each channel, or none")


@dataclass(frozen=True)
class Target:
    """An attack or certificate at one epsilon."""

    name: str
    norm: str
    epsilon: Finite


@dataclass(frozen=True)
class ClassAccuracy:
    """Accuracies of one class on its own test examples."""

    name: str
    clean: Share
    attacked: Share | None
    certified: Share | None


@dataclass(frozen=True)
class Confusion:
    """Counts of examples: a row a true class, a column a predicted one, in label order.

    Examples without an answer are in no column. ``attacked`` is under the attack of ``Classes.attacked``.
    """

    clean: list[list[int]]
    attacked: list[list[int]] | None


@dataclass(frozen=True)
class Classes:
    """What becomes of each class, those without a test example left out of ``accuracies``."""

    class_names: list[str]
    attacked: Target | None
    certified: Target | None
    accuracies: list[ClassAccuracy]
    confusion: Confusion

    def __post_init__(self) -> None:
        size = len(self.class_names)
        for matrix in (self.confusion.clean, self.confusion.attacked):
            if matrix is not None and [len(row) for row in matrix] != [size] * size:
                raise ValueError("confusion must hold a row and a column for each of the class_names")


@dataclass(frozen=True)
class Results:
    """``metrics.json``: all results of an evaluation beside its table.

    Attributes:
        dataset: Name of the data set.
        num_examples: Test examples scored.
        num_classes: Of the data set.
        num_test: Test examples that there are; where they are more, the scored ones are a sample in which
            each class has its share. None in folders of former versions, which scored the first ones.
        test_data: Hash of all test images and labels in their order; empty in folders of former versions.
        inputs: What the examples were; None in folders of former versions.
        schema: ``SCHEMA`` of the writer.
        weights: best or last, of a run.
        attacks: Those that were run, in their order; the worst of several last.
        certificates: Those that were proven.
        checks: For false robustness; empty where nothing was attacked.
        warnings: What makes figures doubtful, each failed check among them.
        published: Figures of others, from the recipe.
        calibration: Bins of confidence.
        protocols: Published protocols.
        sections: Where the sections of the user's own meters are: ``module:function`` each.
        settings: What was asked for: ``evaluation`` of a recipe, with all meters, as plain data.
        model: The class of the network.
        measures: Name of a meter -> the measures of the table that are its own.
    """

    dataset: str
    num_examples: int
    num_classes: int
    num_test: int | None = None
    test_data: str = ""
    inputs: Inputs | None = None
    schema: int = SCHEMA
    weights: str | None = None
    attacks: list[AttackInfo] = field(default_factory=list)
    certificates: list[CertificateInfo] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)
    sampling: Sampling | None = None
    noise: Noise | None = None
    corruptions: Corruptions | None = None
    smoothing: Smoothing | None = None
    calibration: list[Bin] = field(default_factory=list)
    classes: Classes | None = None
    uncertainty: Uncertainty | None = None
    protocols: list[ProtocolInfo] = field(default_factory=list)
    kernel_norms: KernelNorms | None = None
    moments: Moments | None = None
    sections: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    measures: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_sample(self) -> bool:
        """Whether only some of the test examples were scored, drawn by the classes' shares."""
        return self.num_test is not None and self.num_test > self.num_examples

    @property
    def scored(self) -> str:
        """What was scored, in words: ``1,000 of 10,000 test examples, drawn with …``."""
        if not self.is_sample:
            return f"{self.num_examples:,} test examples"
        return (
            f"{self.num_examples:,} of {self.num_test:,} test examples, drawn with the classes' shares of "
            "the whole (seed 0)"
        )

    @property
    def num_repeats(self) -> int:
        """Predictions of each example that accuracies count."""
        return 1 if self.sampling is None else self.sampling.num_repeats

    def attack(self, name: str) -> AttackInfo | None:
        """The attack of a name."""
        return next((attack for attack in self.attacks if attack.name == name), None)


def covers(measured: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether an evaluation with some settings measured all that others ask for, in the same way.

    Args:
        measured: ``settings`` of ``Results``, or ``evaluation`` of a recipe.
        asked: Likewise; what it leaves out is not asked for.
    """
    meters = [flat(meter) for meter in measured.get("meters", [])]
    return all(flat(meter) in meters for meter in asked.get("meters", [])) and all(
        measured.get(key) == value for key, value in asked.items() if key != "meters"
    )
