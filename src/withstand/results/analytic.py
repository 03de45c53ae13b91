"""What is computed of a network, not tried on it: kernel norms and moments. This module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from withstand.results.shares import Finite


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
