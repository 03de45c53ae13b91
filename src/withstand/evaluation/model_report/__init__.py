"""What can be done with a model, found out by trying: ``check`` and its report."""

from withstand.evaluation.model_report.check_model import check
from withstand.evaluation.model_report.model_report import ModelReport
from withstand.evaluation.model_report.report_parts import (
    Advice,
    LayerBound,
    LipschitzBound,
    Normalization,
    Verdict,
)

__all__ = [
    "Advice",
    "LayerBound",
    "LipschitzBound",
    "ModelReport",
    "Normalization",
    "Verdict",
    "check",
]
