"""What training minimises."""

from withstand.objectives.adversarial import Adversarial
from withstand.objectives.cross_entropy import CrossEntropy
from withstand.terms import Objective, Penalty, Sum, Weighted

__all__ = ["Adversarial", "CrossEntropy", "Objective", "Penalty", "Sum", "Weighted"]
