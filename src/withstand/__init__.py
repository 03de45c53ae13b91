"""Trains PyTorch classifiers to withstand noise and attack, and measures how much they withstand."""

from withstand import (
    attacks,
    constraints,
    data,
    domains,
    evaluation,
    models,
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
from withstand.evaluation import evaluate
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
    "LossTerms",
    "ModelError",
    "NonFiniteLossError",
    "RecipeError",
    "RunFolderError",
    "WithstandError",
    "__version__",
    "attacks",
    "certified_radius",
    "certify",
    "constraints",
    "data",
    "domains",
    "evaluate",
    "evaluation",
    "fit",
    "models",
    "norms",
    "objectives",
    "penalties",
    "report",
    "reporting",
    "schedules",
    "spectral",
    "training",
]
