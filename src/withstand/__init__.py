"""Trains PyTorch classifiers to withstand noise and attack, and measures how much they withstand."""

from withstand import (
    attacks,
    bayes,
    constraints,
    corruptions,
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
    smoothing,
    spectral,
    training,
)
from withstand._version import __version__
from withstand.certificates import Certification, Certifier, certified_radius, certify
from withstand.evaluation import evaluate, meters
from withstand.kernel_norms import kernel_norm_bounds
from withstand.moment_check import check_moments
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
    "LossTerms",
    "ModelError",
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
    "corruptions",
    "data",
    "domains",
    "evaluate",
    "evaluation",
    "fit",
    "kernel_norm_bounds",
    "kernel_norms",
    "meters",
    "models",
    "moments",
    "norms",
    "objectives",
    "penalties",
    "report",
    "reporting",
    "schedules",
    "smoothing",
    "spectral",
    "training",
]
