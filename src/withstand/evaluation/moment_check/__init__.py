"""Analytic moments of a network's logits under Gaussian noise, held against samples."""

from withstand.evaluation.moment_check.check_settings import METHODS, Method, MomentSettings
from withstand.evaluation.moment_check.moment_check import MomentResults, check_moments

__all__ = ["METHODS", "Method", "MomentResults", "MomentSettings", "check_moments"]
