"""Operator norms: estimates for training, guaranteed upper bounds for certificates, and how to clip them."""

from withstand.spectral.circles import clip_convolution
from withstand.spectral.clipping import clip, clip_in_subspace
from withstand.spectral.guaranteed import GuaranteedNorms, upper_bound
from withstand.spectral.layers import KeptPlaces, Place, Weight, places, weights
from withstand.spectral.norms import Kept, OperatorNorms, PowerIteration
from withstand.spectral.operators import Convolution, Dense, Diagonal, LinearOperator, Separable, Shape

__all__ = [
    "Convolution",
    "Dense",
    "Diagonal",
    "GuaranteedNorms",
    "Kept",
    "KeptPlaces",
    "LinearOperator",
    "OperatorNorms",
    "Place",
    "PowerIteration",
    "Separable",
    "Shape",
    "Weight",
    "clip",
    "clip_convolution",
    "clip_in_subspace",
    "places",
    "upper_bound",
    "weights",
]
