"""Analytic moments of a network's logits under Gaussian noise, held against samples."""

from withstand.moment_check.check import LevelResult, MomentResults, check_moments
from withstand.moment_check.comparison import Apart, MethodResult, Ratio
from withstand.moment_check.layers import LayerCost, LayerResult
from withstand.moment_check.settings import METHODS, Method, MomentSettings

__all__ = [
    "METHODS",
    "Apart",
    "LayerCost",
    "LayerResult",
    "LevelResult",
    "Method",
    "MethodResult",
    "MomentResults",
    "MomentSettings",
    "Ratio",
    "check_moments",
]
