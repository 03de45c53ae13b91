"""What weights are held to while they are trained: sets to project on, and parametrisations."""

from withstand.constraints.base import Constraint
from withstand.constraints.parametrize import orthogonal_, spectral_norm_
from withstand.constraints.spectral_ball import SpectralBall

__all__ = ["Constraint", "SpectralBall", "orthogonal_", "spectral_norm_"]
