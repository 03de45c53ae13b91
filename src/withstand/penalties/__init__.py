"""What is added to an objective to keep a function tame."""

from withstand.penalties.adversarial_perturbation import AdversarialPerturbation
from withstand.penalties.deformation_stability import DeformationStability
from withstand.penalties.input_gradient import InputGradient
from withstand.penalties.loss_gradient import LossGradient
from withstand.penalties.spectral_expectation import SpectralExpectation
from withstand.penalties.spectral_norm import SpectralNorm
from withstand.penalties.tangent_gradient import TangentGradient
from withstand.penalties.virtual_adversarial import VirtualAdversarial

__all__ = [
    "AdversarialPerturbation",
    "DeformationStability",
    "InputGradient",
    "LossGradient",
    "SpectralExpectation",
    "SpectralNorm",
    "TangentGradient",
    "VirtualAdversarial",
]
