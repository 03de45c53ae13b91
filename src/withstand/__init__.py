"""Trains PyTorch classifiers to withstand noise and attack, and measures how much they withstand."""

from withstand import (
    attacks,
    bayes,
    constraints,
    data,
    domains,
    evaluation,
    kernel_norms,
    models,
    moments,
    norms,
    objectives,
    penalties,
    reporting,
    schedules,
    spectral,
    training,
)
from withstand._version import __version__
from withstand.certificates import Certification, Certifier, certified_radius, certify
from withstand.evaluation import NoiseCurve, evaluate
from withstand.kernel_norms import KernelNorms, kernel_norm_bounds
from withstand.moment_check import MomentCheck, check_moments
from withstand.noise import GaussianNoise
from withstand.reporting import report
from withstand.training import fit
from withstand.types import (
    AttackError,
    Batch,
    CertificateError,
    CheckpointError,
    DataError,
    LossTerms,
    ModelError,
    NonFiniteLossError,
    RecipeError,
    RunFolderError,
    WithstandError,
)

__all__ = [
    "AttackError",
    "Batch",
    "CertificateError",
    "Certification",
    "Certifier",
    "CheckpointError",
    "DataError",
    "GaussianNoise",
    "KernelNorms",
    "LossTerms",
    "ModelError",
    "MomentCheck",
    "NoiseCurve",
    "NonFiniteLossError",
    "RecipeError",
    "RunFolderError",
    "WithstandError",
    "__version__",
    "attacks",
    "bayes",
    "certified_radius",
    "certify",
    "check_moments",
    "constraints",
    "data",
    "domains",
    "evaluate",
    "evaluation",
    "fit",
    "kernel_norm_bounds",
    "kernel_norms",
    "models",
    "moments",
    "norms",
    "objectives",
    "penalties",
    "report",
    "reporting",
    "schedules",
    "spectral",
    "training",
]
