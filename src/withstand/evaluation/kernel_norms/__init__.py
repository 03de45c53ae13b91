"""Bounds of a classifier's Lipschitz constants, and so of its kernel norm, from below and from above."""

from withstand.evaluation.kernel_norms.all_bounds import KernelNormBounds, kernel_norm_bounds
from withstand.evaluation.kernel_norms.expected_norms import (
    ExpectedNorm,
    ExpectedNorms,
    NetworkNorms,
    expected_norms,
)
from withstand.evaluation.kernel_norms.lower import KernelNormSettings

__all__ = [
    "ExpectedNorm",
    "ExpectedNorms",
    "KernelNormBounds",
    "KernelNormSettings",
    "NetworkNorms",
    "expected_norms",
    "kernel_norm_bounds",
]
