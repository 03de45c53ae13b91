"""What a run folder holds, as its files spell it: the only home of these names and keys.

Readers ignore keys that they do not know, so that a later version may add some.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

from withstand.reporting.measures_schema import (
    Calibration,
    Check,
    Classes,
    Confusion,
    Corruptions,
    Smoothing,
    Stage,
)
from withstand.reporting.moments_schema import Moments
from withstand.reporting.shares_schema import Accuracy, Between, CurvePoint, Radius, Share
from withstand.reporting.stochastic_schema import ProtocolFigures, Sampling, Uncertainty

__all__ = [
    "METRICS_SCHEMA",
    "Accuracy",
    "AttackCurve",
    "Between",
    "CertificateCurve",
    "Cost",
    "CurvePoint",
    "Environment",
    "KernelNorms",
    "KernelNormsOfClass",
    "KernelNormsOfLayer",
    "KernelNormsSummary",
    "Metrics",
    "Noise",
    "NoiseLevel",
    "NoiseSettings",
    "NoiseShares",
    "Published",
    "Radius",
    "Share",
]

METRICS_SCHEMA = 1


class AttackCurve(TypedDict):
    """One attack at its epsilons; ``norm`` is ``"inf"``, ``"2"`` or ``"1"``.

    A suite has ``stages``: its attacks, each run on the examples that the former left standing.
    """

    name: str
    norm: str
    description: NotRequired[str | None]
    stages: NotRequired[list[Stage] | None]
    curve: list[CurvePoint]


class CertificateCurve(TypedDict):
    """What one certificate proves at its epsilons; ``norm`` is ``"inf"`` or ``"2"``."""

    name: str
    norm: str
    method: str
    description: NotRequired[str | None]
    curve: list[CurvePoint]
    radius: NotRequired[Radius | None]


class KernelNormsSummary(TypedDict):
    """Bounds of a logit's l2 Lipschitz constant, and its change by deformations; null where unknown."""

    gradient: float
    perturbation: float
    deformation: float | None
    deformation_change: float | None
    spectral: float | None


_ClassName = TypedDict("_ClassName", {"class": str})


class KernelNormsOfClass(_ClassName, KernelNormsSummary):
    """The same of one class, by its name."""


class KernelNormsOfLayer(TypedDict):
    """The norm of a layer's reshaped kernel, and an upper bound of its operator's."""

    name: str
    kernel_norm: float | None
    operator_norm: float | None


class KernelNorms(TypedDict):
    """Bounds for each class, the largest over the classes, and why there is no upper one."""

    num_examples: int
    description: str
    classes: list[KernelNormsOfClass]
    layers: list[KernelNormsOfLayer]
    summary: KernelNormsSummary
    reason: NotRequired[str | None]


class NoiseLevel(TypedDict):
    """Shares of test images and draws at one noise_std, in units of the images' [0, 1].

    Agreement is with the prediction without noise; ``clipped`` is of noisy images cut to [0, 1].
    """

    noise_std: float
    agreement: Accuracy
    accuracy: Accuracy
    clipped_agreement: Accuracy
    clipped_accuracy: Accuracy


class NoiseShares(TypedDict):
    """The same summed up over all levels."""

    agreement: Share
    accuracy: Share
    clipped_agreement: Share
    clipped_accuracy: Share


class NoiseSettings(TypedDict):
    """How the noise was drawn."""

    shell: NotRequired[bool]


class Noise(TypedDict):
    """The answers under Gaussian noise: at each level, and the area and mean of their curves."""

    description: str
    settings: NotRequired[NoiseSettings]
    num_draws: int
    levels: list[NoiseLevel]
    area: NoiseShares
    mean: NoiseShares


class Published(TypedDict):
    """A figure that somebody published; ``measure`` is ``"clean"``, ``"attacked"`` or ``"certified"``.

    ``attack`` is the attack of the published protocol that it stands for.
    """

    measure: str
    accuracy: Share
    source: str
    norm: NotRequired[str | None]
    epsilon: NotRequired[float | None]
    note: NotRequired[str | None]
    attack: NotRequired[str | None]


class Metrics(TypedDict):
    """``metrics.json``: the summary of an evaluation."""

    schema: int
    dataset: str
    num_examples: int
    num_classes: int
    weights: NotRequired[str | None]
    clean: Accuracy
    attacks: NotRequired[list[AttackCurve]]
    certificates: NotRequired[list[CertificateCurve]]
    kernel_norms: NotRequired[KernelNorms | None]
    noise: NotRequired[Noise | None]
    moments: NotRequired[Moments | None]
    sampling: NotRequired[Sampling | None]
    uncertainty: NotRequired[Uncertainty | None]
    protocols: NotRequired[list[ProtocolFigures] | None]
    checks: NotRequired[list[Check] | None]
    corruptions: NotRequired[Corruptions | None]
    smoothing: NotRequired[Smoothing | None]
    calibration: NotRequired[Calibration | None]
    classes: NotRequired[Classes | None]
    confusion: NotRequired[Confusion | None]
    warnings: NotRequired[list[str]]
    published: NotRequired[list[Published]]


class Cost(TypedDict):
    """What a run cost: seconds of wall clock, optimiser steps, bytes."""

    train_seconds: NotRequired[float | None]
    train_steps: NotRequired[int | None]
    evaluate_seconds: NotRequired[float | None]
    certify_seconds: NotRequired[float | None]
    moments_seconds: NotRequired[float | None]
    peak_memory_bytes: NotRequired[int | None]


class Environment(TypedDict):
    """``environment.json``: where, with what and at which cost a run was made."""

    versions: NotRequired[dict[str, str]]
    platform: NotRequired[str | None]
    device: NotRequired[str | None]
    seed: NotRequired[int | None]
    git_commit: NotRequired[str | None]
    data_fingerprint: NotRequired[str | None]
    command: NotRequired[str | None]
    evaluate_command: NotRequired[str | None]
    certify_command: NotRequired[str | None]
    moments_command: NotRequired[str | None]
    started: NotRequired[str | None]
    cost: NotRequired[Cost]
