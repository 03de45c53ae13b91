"""All that an evaluation can measure; a recipe names them in ``evaluation.meters``.

A meter of your own is a frozen dataclass that derives from ``Meter``.
"""

from withstand.evaluation.meter import Found, Gathered, Meter, Needs, Sources, Subject, Summary
from withstand.evaluation.meters.always import Calibration, Classes, reliability
from withstand.evaluation.meters.attacks import CERTIFIED_NORMS, Attacks, Certificate, Suite
from withstand.evaluation.meters.corruptions import Corruptions
from withstand.evaluation.meters.gradients import LargeEpsilon, VanishingGradients
from withstand.evaluation.meters.kernel_norms import KernelNorms
from withstand.evaluation.meters.moments import MomentCheck
from withstand.evaluation.meters.noise import NoiseCurve
from withstand.evaluation.meters.protocols import SebrProtocol
from withstand.evaluation.meters.smoothing import RandomizedSmoothing
from withstand.evaluation.meters.uncertainty import Uncertainty

__all__ = [
    "CERTIFIED_NORMS",
    "Attacks",
    "Calibration",
    "Certificate",
    "Classes",
    "Corruptions",
    "Found",
    "Gathered",
    "KernelNorms",
    "LargeEpsilon",
    "Meter",
    "MomentCheck",
    "Needs",
    "NoiseCurve",
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
