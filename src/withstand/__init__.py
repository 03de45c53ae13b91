"""Trains PyTorch classifiers to withstand noise and attack, and measures how much they withstand."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from withstand._version import __version__
from withstand.types import (
    AttackError,
    Batch,
    CertificateError,
    CheckpointError,
    DataError,
    LossTerms,
    ModelCard,
    ModelError,
    NonFiniteLossError,
    RecipeError,
    RunFolderError,
    WithstandError,
)

if TYPE_CHECKING:
    from withstand import (
        attacks,
        bayes,
        constraints,
        corruptions,
        data,
        domains,
        evaluation,
        integrations,
        models,
        moments,
        objectives,
        penalties,
        properties,
        reporting,
        training,
    )
    from withstand import operators as spectral
    from withstand.certificates import smoothing
    from withstand.certificates.certify import Certification, Certifier, certified_radius, certify
    from withstand.core import norms, schedules
    from withstand.core.noise import GaussianNoise
    from withstand.core.trust import trusting
    from withstand.evaluation import Benchmark, benchmark, evaluate, kernel_norms, meters
    from withstand.evaluation.kernel_norms import kernel_norm_bounds
    from withstand.evaluation.model_report import ModelReport, check
    from withstand.evaluation.moment_check import check_moments
    from withstand.properties.verdicts import Verdict
    from withstand.reporting import report
    from withstand.runs.exporting import export
    from withstand.runs.property_files import export_properties
    from withstand.runs.sharing import load, pull, push
    from withstand.runs.verify import verify
    from withstand.training.fit import fit

__all__ = [
    "AttackError",
    "Batch",
    "Benchmark",
    "CertificateError",
    "Certification",
    "Certifier",
    "CheckpointError",
    "DataError",
    "GaussianNoise",
    "LossTerms",
    "ModelCard",
    "ModelError",
    "ModelReport",
    "NonFiniteLossError",
    "RecipeError",
    "RunFolderError",
    "Verdict",
    "WithstandError",
    "__version__",
    "attacks",
    "bayes",
    "benchmark",
    "certified_radius",
    "certify",
    "check",
    "check_moments",
    "constraints",
    "corruptions",
    "data",
    "domains",
    "evaluate",
    "evaluation",
    "export",
    "export_properties",
    "fit",
    "integrations",
    "kernel_norm_bounds",
    "kernel_norms",
    "load",
    "meters",
    "models",
    "moments",
    "norms",
    "objectives",
    "penalties",
    "properties",
    "pull",
    "push",
    "report",
    "reporting",
    "schedules",
    "smoothing",
    "spectral",
    "training",
    "trusting",
    "verify",
]

# Torch and what else a part needs is imported when the part is first used, so that this import is quick.
# Names that are neither here nor above are those of packages and modules in this folder.
_HOMES = {
    "Benchmark": "withstand.evaluation",
    "Certification": "withstand.certificates",
    "Certifier": "withstand.certificates",
    "GaussianNoise": "withstand.core.noise",
    "ModelReport": "withstand.evaluation.model_report",
    "Verdict": "withstand.properties.verdicts",
    "benchmark": "withstand.evaluation",
    "certified_radius": "withstand.certificates",
    "certify": "withstand.certificates",
    "check": "withstand.evaluation.model_report",
    "check_moments": "withstand.evaluation.moment_check",
    "evaluate": "withstand.evaluation",
    "export": "withstand.runs.exporting",
    "export_properties": "withstand.runs.property_files",
    "fit": "withstand.training",
    "kernel_norm_bounds": "withstand.evaluation.kernel_norms",
    "load": "withstand.runs.sharing",
    "pull": "withstand.runs.sharing",
    "push": "withstand.runs.sharing",
    "report": "withstand.reporting",
    "trusting": "withstand.core.trust",
    "verify": "withstand.runs.verify",
}
_MODULES = {
    "kernel_norms": "withstand.evaluation.kernel_norms",
    "meters": "withstand.evaluation.meters",
    "norms": "withstand.core.norms",
    "schedules": "withstand.core.schedules",
    "smoothing": "withstand.certificates.smoothing",
    "spectral": "withstand.operators",
}

if not TYPE_CHECKING:  # a checker that saw this would take any name for one of the package

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            value = getattr(import_module(_HOMES[name]), name)
        else:
            module = _MODULES.get(name, f"withstand.{name}")
            try:
                # The parser of recipes asks for each class here, and no module is written like one.
                value = import_module(module) if name.islower() else None
            except ModuleNotFoundError as error:
                if error.name != module:
                    raise
                value = None
            if value is None:
                about = f"module 'withstand' has no attribute {name!r}"
                raise AttributeError(about, name=name, obj=sys.modules[__name__])
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
