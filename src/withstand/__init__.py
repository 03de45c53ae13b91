"""Trains PyTorch classifiers to withstand noise and attack, and measures how much they withstand."""

from withstand import (
    attacks,
    bayes,
    constraints,
    corruptions,
    data,
    domains,
    evaluation,
    models,
    moments,
    objectives,
    penalties,
    reporting,
    training,
)
from withstand import operators as spectral
from withstand._version import __version__
from withstand.certificates import Certification, Certifier, certified_radius, certify, smoothing
from withstand.core import norms, schedules
from withstand.core.noise import GaussianNoise
from withstand.core.trust import trusting
from withstand.evaluation import evaluate, kernel_norms, meters
from withstand.evaluation.kernel_norms import kernel_norm_bounds
from withstand.evaluation.moment_check import check_moments
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
    "trusting",
]
