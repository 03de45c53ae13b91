"""What is added to an objective to keep a function tame."""

from withstand.penalties.changes import AdversarialPerturbation, DeformationStability
from withstand.penalties.gradient_penalties import (
    GradientAlignment,
    InputGradient,
    LossGradient,
    TangentGradient,
)
from withstand.penalties.spectral import SpectralExpectation, SpectralNorm
from withstand.penalties.virtual_adversarial import VirtualAdversarial

__all__ = [
    "AdversarialPerturbation",
    "DeformationStability",
    "GradientAlignment",
    "InputGradient",
    "LossGradient",
    "SpectralExpectation",
    "SpectralNorm",
    "TangentGradient",
    "VirtualAdversarial",
]
