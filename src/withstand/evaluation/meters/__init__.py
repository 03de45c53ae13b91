"""All that an evaluation can measure; a recipe names them in ``evaluation.meters``.

A meter of your own is a frozen dataclass that derives from ``Meter``.
"""

from withstand.domains.sets.input_sets import CERTIFIED_NORMS
from withstand.evaluation.meter import Gathered, Meter, Needs, PartResult, Sources, Subject, Summary
from withstand.evaluation.meters.attacks import Attacks, Certificate, Suite
from withstand.evaluation.meters.calibration_and_classes import Calibration, Classes, reliability
from withstand.evaluation.meters.corrupted import Corruptions
from withstand.evaluation.meters.gradient_checks import LargeEpsilon, VanishingGradients
from withstand.evaluation.meters.kernel_norm_meter import KernelNorms
from withstand.evaluation.meters.moments import MomentCheck
from withstand.evaluation.meters.noise_curve import NoiseCurve
from withstand.evaluation.meters.predictive_uncertainty import Uncertainty
from withstand.evaluation.meters.protocols import SebrProtocol
from withstand.evaluation.meters.randomised_smoothing import RandomizedSmoothing

__all__ = [
    "CERTIFIED_NORMS",
    "Attacks",
    "Calibration",
    "Certificate",
    "Classes",
    "Corruptions",
    "Gathered",
    "KernelNorms",
    "LargeEpsilon",
    "Meter",
    "MomentCheck",
    "Needs",
    "NoiseCurve",
    "PartResult",
    "RandomizedSmoothing",
    "SebrProtocol",
    "Sources",
    "Subject",
    "Suite",
    "Summary",
    "Uncertainty",
    "VanishingGradients",
    "reliability",
]
