"""What an evaluation found: one table of measurements, and what no table can hold.

``measurements.csv`` is the table, a row a figure. ``metrics.json`` is the rest: what was measured by what, in
words, and what has another shape, such as histograms. Evaluation writes both, reporting reads them, and both
use the types below. This module imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field

__all__ = [
    "ABSTENTION",
    "ATTACKED",
    "CALIBRATION_ERROR",
    "CERTIFIED",
    "CLEAN",
    "CORRUPTED",
    "LARGEST_RADIUS",
    "LARGE_EPSILON",
    "MEAN_RADIUS",
    "MEDIAN_RADIUS",
    "NOISE_ACCURACY",
    "NOISE_AGREEMENT",
    "SCHEMA",
    "SMOOTHED",
    "SMOOTHED_CERTIFIED",
    "VANISHING_GRADIENTS",
    "AttackInfo",
    "Bin",
    "CertificateInfo",
    "Check",
    "ClassAccuracy",
    "Classes",
    "Confusion",
    "CorruptionKind",
    "Corruptions",
    "KernelNorms",
    "KernelNormsOf",
    "KernelNormsOfLayer",
    "Measurement",
    "Moments",
    "MomentsError",
    "MomentsForm",
    "MomentsLayer",
    "MomentsLevel",
    "MomentsMethod",
    "Noise",
    "ProtocolInfo",
    "Published",
    "Results",
    "Sampling",
    "Share",
    "Smoothing",
    "StageCounts",
    "StageInfo",
    "StdRatio",
    "Sweep",
    "SweepLevel",
    "Target",
    "Uncertainty",
    "UncertaintySet",
    "example_column",
    "protocol_measure",
    "radius_column",
    "table_of",
]

SCHEMA = 2
"""Of ``metrics.json``; it grows when an older reader would misread the file."""

# -- the table ----------------------------------------------------------------------------------------

CLEAN = "clean accuracy"
ATTACKED = "attacked accuracy"
"""``by`` is the attack, ``level`` epsilon."""
CERTIFIED = "certified accuracy"
"""``by`` is the certificate, ``level`` epsilon."""
MEAN_RADIUS = "mean certified radius"
MEDIAN_RADIUS = "median certified radius"
LARGEST_RADIUS = "largest certified radius"
NOISE_ACCURACY = "accuracy under noise"
"""``by`` is unclipped or clipped, ``level`` noise_std."""
NOISE_AGREEMENT = "agreement under noise"
"""With the answer without noise; otherwise as the accuracy."""
CORRUPTED = "accuracy under corruption"
"""``by`` is the kind, ``level`` the severity."""
SMOOTHED = "accuracy of the smoothed classifier"
ABSTENTION = "abstention of the smoothed classifier"
SMOOTHED_CERTIFIED = "certified accuracy of the smoothed classifier"
"""``level`` is epsilon, in l2."""
CALIBRATION_ERROR = "calibration error"
"""``by`` is what the images were: clean."""
VANISHING_GRADIENTS = "vanishing gradients"
"""The share of right examples at which a loss, ``by``, has no gradient."""
LARGE_EPSILON = "accuracy at an epsilon that allows everything"


def protocol_measure(protocol: str) -> str:
    """What accuracy under a published protocol is called; ``by`` is its attack, or clean."""
    return f"accuracy under protocol {protocol}"


@dataclass(frozen=True)
class Measurement:
    """One figure: a row of ``measurements.csv``.

    Attributes:
        measure: What was measured, in words.
        by: The attack, certificate, corruption or the like; empty where there is none.
        norm: ``inf``, ``2`` or ``1``; empty where there is none.
        level: Epsilon in [0, 1] units, noise_std, or severity; 0 where there is none.
        value: The figure; of a share in [0, 1].
        lower: Of its 95 % interval; None where it has none.
        upper: Likewise.
        correct: Of a share, how many.
        total: Of how many.
    """

    measure: str
    by: str = ""
    norm: str = ""
    level: float = 0.0
    value: float = math.nan
    lower: float | None = None
    upper: float | None = None
    correct: int | None = None
    total: int | None = None


_COLUMNS = {each.name: each.type for each in fields(Measurement)}
_KINDS = {"str": "str", "float": "float64", "float | None": "float64", "int | None": "Int64"}


def table_of(measurements: Iterable[Measurement]) -> pd.DataFrame:
    """The measurements as a table with the columns of ``measurements.csv``."""
    table = pd.DataFrame([asdict(each) for each in measurements], columns=list(_COLUMNS))
    return table.astype({name: _KINDS[str(kind)] for name, kind in _COLUMNS.items()})


def example_column(measure: str, by: str = "", level: float = 0.0) -> str | None:
    """The column of ``examples.csv`` whose mean a figure is; None where it is the mean of none."""
    if measure in (ATTACKED, CERTIFIED):
        return f"{by}@{level:.6g}"
    return {CLEAN: "clean", NOISE_ACCURACY: "noise-accuracy", CORRUPTED: "corruption-accuracy"}.get(measure)


def radius_column(certificate: str) -> str:
    """The column of ``examples.csv`` with a certificate's radii: ``radius-l2`` for ``certified-l2``."""
    return certificate.replace("certified", "radius", 1)


# -- what no table can hold ---------------------------------------------------------------------------

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


@dataclass(frozen=True)
class StageInfo:
    """One attack of several that are run one after another."""

    name: str
    kind: Literal["white-box", "black-box", "transfer"]
    description: str = ""


@dataclass(frozen=True)
class StageCounts:
    """At one epsilon, of each stage: examples that it was given, and how many of them it broke."""

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


@dataclass(frozen=True)
class CertificateInfo:
    """A certificate; its accuracies and radii are in the table, under its name."""

    name: str
    norm: str
    method: str
    description: str = ""


@dataclass(frozen=True)
class Check:
    """A check for false robustness; ``passed`` is None where it was not run, and ``finding`` says why."""

    name: str
    title: str
    passed: bool | None
    finding: str


@dataclass(frozen=True)
class Published:
    """A figure that somebody published; ``attack`` is that of the published protocol it stands for."""

    measure: Literal["clean", "attacked", "certified"]
    accuracy: Unit
    source: str
    norm: str | None = None
    epsilon: float | None = None
    note: str = ""
    attack: str | None = None


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
    severities: list[int]
    values: list[Finite]


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

    ``attacked`` is under the attack of ``Classes.attacked``.
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


@dataclass(frozen=True)
class KernelNormsOf:
    """Bounds of a class logit's l2 Lipschitz constant, and its change by deformations; None where unknown."""

    name: str
    gradient: Finite
    perturbation: Finite
    deformation: Finite | None
    deformation_change: Finite | None
    spectral: Finite | None


@dataclass(frozen=True)
class KernelNormsOfLayer:
    """The norm of a layer's reshaped kernel, and an upper bound of its operator's."""

    name: str
    kernel_norm: Finite | None
    operator_norm: Finite | None


@dataclass(frozen=True)
class KernelNorms:
    """Bounds for each class, the largest over the classes, and why there is no upper one."""

    num_examples: int
    description: str
    classes: list[KernelNormsOf]
    layers: list[KernelNormsOfLayer]
    largest: KernelNormsOf
    reason: str | None = None


@dataclass(frozen=True)
class StdRatio:
    """Analytic deviation of a logit over the sampled one: 5 % quantile, median, 95 % quantile."""

    low: Finite
    median: Finite
    high: Finite


@dataclass(frozen=True)
class MomentsMethod:
    """One analytic form of the logits; ``reason`` says why it was not tried, and then the rest is None.

    ``points`` are (sampled, analytic) deviations of some logits.
    """

    name: str
    reason: str | None = None
    mean_error: Finite | None = None
    std_ratio: StdRatio | None = None
    seconds: Finite | None = None
    matching_samples: Finite | None = None
    speed_up: Finite | None = None
    full_speed_up: Finite | None = None
    points: list[tuple[Finite, Finite]] = field(default_factory=list)


@dataclass(frozen=True)
class MomentsError:
    """How far a layer's outputs are off, in root mean square sampled deviations; None where none moves."""

    mean_error: Finite | None
    std_error: Finite | None
    std_ratio: Finite | None


@dataclass(frozen=True)
class MomentsForm:
    """One analytic form in the layers of one type, and how many draws take as long."""

    accumulated: MomentsError
    own: MomentsError
    samples: Finite | None


@dataclass(frozen=True)
class MomentsLayer:
    """The layers of one type."""

    operation: str
    count: int
    forms: dict[str, MomentsForm]


@dataclass(frozen=True)
class MomentsLevel:
    """All that was found at one noise_std, in units of the images' [0, 1]."""

    noise_std: Finite
    sample_seconds: Finite
    methods: list[MomentsMethod]
    layers: list[MomentsLayer]


@dataclass(frozen=True)
class Moments:
    """Analytic moments of logits under noise against sampled ones."""

    num_examples: int
    num_samples: int
    standard_error: Finite
    description: str
    levels: list[MomentsLevel]


@dataclass(frozen=True)
class Results:
    """``metrics.json``: all that an evaluation found beside its table.

    Attributes:
        dataset: Name of the data set.
        num_examples: Test examples scored.
        num_classes: Of the data set.
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
    """

    dataset: str
    num_examples: int
    num_classes: int
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

    @property
    def num_repeats(self) -> int:
        """Predictions of each example that accuracies count."""
        return 1 if self.sampling is None else self.sampling.num_repeats

    def attack(self, name: str) -> AttackInfo | None:
        """The attack of a name."""
        return next((each for each in self.attacks if each.name == name), None)
