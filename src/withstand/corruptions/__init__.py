"""Corruptions of images at five severities, on their device, for any image data.

What grows with the severity, after ImageNet-C (Hendrycks and Dietterich, ICLR 2019) and MNIST-C (Mu and
Gilmer, 2019), with lengths as shares of the side instead of pixels:

============== ============================================== ======================================
name           parameter                                      severities 1 to 5
============== ============================================== ======================================
gaussian-blur  standard deviation, share of the shorter side  0.0125, 0.02, 0.0275, 0.0375, 0.05
brightness     added to every pixel                           0.1, 0.2, 0.3, 0.4, 0.5
contrast       factor on the difference from the mean         0.75, 0.5, 0.4, 0.3, 0.15
jpeg           quality, of 100                                50, 35, 25, 15, 8
shot-noise     mean number of photons at white                100, 50, 25, 12, 6
impulse-noise  share of pixels turned black or white          0.03, 0.06, 0.09, 0.17, 0.27
rotation       degrees, either way                            4, 8, 12, 16, 20
translation    shift along both axes, share of the side       0.025, 0.05, 0.075, 0.1, 0.15
============== ============================================== ======================================

Of images with a black border such as MNIST's, blur, rotation and translation keep the border black, since
images go on as their last pixels; shot noise leaves black as it is; brightness and impulse noise are strong,
since most pixels are black.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from withstand.corruptions.corruption import SEVERITIES, Corruption
from withstand.corruptions.jpeg import Jpeg
from withstand.corruptions.plain import (
    Brightness,
    Contrast,
    GaussianBlur,
    ImpulseNoise,
    Rotation,
    ShotNoise,
    Translation,
)

__all__ = [
    "CORRUPTIONS",
    "SEVERITIES",
    "Brightness",
    "Contrast",
    "Corruption",
    "GaussianBlur",
    "ImpulseNoise",
    "Jpeg",
    "Rotation",
    "ShotNoise",
    "Translation",
]

_KINDS = (GaussianBlur, Brightness, Contrast, Jpeg, ShotNoise, ImpulseNoise, Rotation, Translation)
CORRUPTIONS: Final[Mapping[str, Corruption]] = MappingProxyType({kind.name: kind() for kind in _KINDS})
"""All there are, by name."""
