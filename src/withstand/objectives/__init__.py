"""What training minimises."""

from withstand.objectives.adversarial import Adversarial
from withstand.objectives.certified import Certified
from withstand.objectives.certified_losses import (
    BoostedCrossEntropy,
    SymmetricCrossEntropy,
    WorstCrossEntropy,
    WorstLoss,
)
from withstand.objectives.cross_entropy import CrossEntropy
from withstand.terms import Objective, Penalty, Sum, Weighted

__all__ = [
    "Adversarial",
    "BoostedCrossEntropy",
    "Certified",
    "CrossEntropy",
    "Objective",
    "Penalty",
    "Sum",
    "SymmetricCrossEntropy",
    "Weighted",
    "WorstCrossEntropy",
    "WorstLoss",
]
