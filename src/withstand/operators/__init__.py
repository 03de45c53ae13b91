"""Operator norms: estimates for training, guaranteed upper bounds for certificates, and how to clip them."""

from withstand.operators.circles import clip_convolution
from withstand.operators.clipping import clip, clip_in_subspace
from withstand.operators.guaranteed import GuaranteedNorms, upper_bound
from withstand.operators.layer_places import LayerInputCache, Place, places
from withstand.operators.layer_weights import DEVIATION, Weight, weights
from withstand.operators.linear_operators import (
    Convolution,
    Dense,
    Diagonal,
    LinearOperator,
    Matrices,
    Selection,
    Separable,
    Shape,
)
from withstand.operators.power_iteration import Buffers, OperatorNorms, PowerIteration
from withstand.operators.transposed_convolution import TransposedConvolution

__all__ = [
    "DEVIATION",
    "Buffers",
    "Convolution",
    "Dense",
    "Diagonal",
    "GuaranteedNorms",
    "LayerInputCache",
    "LinearOperator",
    "Matrices",
    "OperatorNorms",
    "Place",
    "PowerIteration",
    "Selection",
    "Separable",
    "Shape",
    "TransposedConvolution",
    "Weight",
    "clip",
    "clip_convolution",
    "clip_in_subspace",
    "places",
    "upper_bound",
    "weights",
]
