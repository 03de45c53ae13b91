"""What training minimises."""

from withstand.objectives.adversarial import Adversarial
from withstand.objectives.certified import Certified
from withstand.objectives.certified_losses import (
    GeneralizedCrossEntropy,
    SymmetricCrossEntropy,
    boosted_cross_entropy,
)
from withstand.objectives.cross_entropy import CrossEntropy
from withstand.terms import Objective, Penalty, Sum, Weighted

__all__ = [
    "Adversarial",
    "Certified",
    "CrossEntropy",
    "GeneralizedCrossEntropy",
    "Objective",
    "Penalty",
    "Sum",
    "SymmetricCrossEntropy",
    "Weighted",
    "boosted_cross_entropy",
]
