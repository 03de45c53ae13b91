"""What objectives and penalties share: the interface, sums and weights, one pass for all terms."""

from withstand.loss.passes import Pass
from withstand.loss.terms import Objective, OnePass, Sum, Weighted

__all__ = ["Objective", "OnePass", "Pass", "Sum", "Weighted"]
