"""What weights are held to while they are trained: sets to project on, and parametrisations."""

from withstand.constraints.parametrize import (
    PARAMETRIZATIONS,
    ParametrizationName,
    orthogonal_,
    spectral_norm_,
)
from withstand.constraints.spectral_ball import Constraint, SpectralBall

__all__ = [
    "PARAMETRIZATIONS",
    "Constraint",
    "ParametrizationName",
    "SpectralBall",
    "orthogonal_",
    "spectral_norm_",
]
