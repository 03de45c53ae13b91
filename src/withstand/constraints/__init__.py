"""What weights are held to while they are trained: sets to project on, and parametrisations."""

from withstand.constraints.orthogonal import NormalizedRows, Orthogonal
from withstand.constraints.parametrize import (
    PARAMETRIZATIONS,
    ParametrizationName,
    orthogonal_,
    orthogonal_free_last_,
    orthogonal_normalized_last_,
    spectral_norm_,
)
from withstand.constraints.spectral_ball import Constraint, SpectralBall

__all__ = [
    "PARAMETRIZATIONS",
    "Constraint",
    "NormalizedRows",
    "Orthogonal",
    "ParametrizationName",
    "SpectralBall",
    "orthogonal_",
    "orthogonal_free_last_",
    "orthogonal_normalized_last_",
    "spectral_norm_",
]
