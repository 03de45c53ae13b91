"""Analytic moments of a network's logits under Gaussian noise, held against samples."""

from withstand.moment_check.check import MomentResults, check_moments
from withstand.moment_check.settings import METHODS, Method, MomentSettings

__all__ = ["METHODS", "Method", "MomentResults", "MomentSettings", "check_moments"]
