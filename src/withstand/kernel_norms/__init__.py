"""Bounds of a classifier's Lipschitz constants, and so of its kernel norm, from below and from above."""

from withstand.kernel_norms.bounds import ClassBounds, KernelNormBounds, kernel_norm_bounds
from withstand.kernel_norms.layers import LayerNorms
from withstand.kernel_norms.settings import KernelNorms

__all__ = ["ClassBounds", "KernelNormBounds", "KernelNorms", "LayerNorms", "kernel_norm_bounds"]
