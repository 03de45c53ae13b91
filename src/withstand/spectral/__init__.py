"""Operator norms: estimates for training, guaranteed upper bounds for certificates."""

from withstand.spectral.guaranteed import GuaranteedNorms, upper_bound
from withstand.spectral.norms import OperatorNorms, PowerIteration
from withstand.spectral.operators import Convolution, Dense, Diagonal, LinearOperator, Separable, Shape

__all__ = [
    "Convolution",
    "Dense",
    "Diagonal",
    "GuaranteedNorms",
    "LinearOperator",
    "OperatorNorms",
    "PowerIteration",
    "Separable",
    "Shape",
    "upper_bound",
]
