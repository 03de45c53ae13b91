"""Moments of max(z, 0) for a normal z (Bibi, Alfadly, Ghanem, CVPR 2018).

With h = mean / std: E = mean Φ(h) + std φ(h). The variance is written without the difference of two
second moments, which would leave nothing of it in float32 where the mean is large:
Var = std² (Φ + h² Φ(h) Φ(-h) + h φ (Φ(-h) - Φ(h)) - φ²).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from withstand.moments.normal import cdf, pdf, std_of

__all__ = ["rectified", "rectified_mean"]


def rectified_mean(mean: Tensor, variance: Tensor) -> Tensor:
    """E max(z, 0), in two thirds of the time that both moments take.

    Args:
        mean: Of z.
        variance: Of z, nowhere negative; broadcasts to the mean.

    Returns:
        A tensor like ``mean``, which can be differentiated once.
    """
    expected: Tensor = _Mean.apply(mean, variance)  # type: ignore[no-untyped-call]
    return expected


def rectified(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """E max(z, 0) and Var max(z, 0).

    Args:
        mean: Of z.
        variance: Of z, nowhere negative; broadcasts to the mean.

    Returns:
        Two tensors like ``mean``, which can be differentiated once.
    """
    expected, spread = _MeanAndVariance.apply(mean, variance)  # type: ignore[no-untyped-call]
    return expected, spread


class _Mean(torch.autograd.Function):
    """Keeps two tensors for its gradient: ∂E/∂mean = Φ, ∂E/∂variance = φ / (2 std)."""

    @staticmethod
    @override
    def forward(ctx: Any, mean: Tensor, variance: Tensor) -> Tensor:
        std = std_of(variance)
        h = mean / std
        below, density = cdf(h), pdf(h)
        ctx.save_for_backward(below, density, std)
        ctx.shape = variance.shape
        return torch.addcmul(mean * below, std, density)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_mean: Tensor) -> tuple[Tensor, Tensor | None]:
        below, density, std = ctx.saved_tensors
        for_variance = None
        if ctx.needs_input_grad[1]:
            for_variance = (to_mean * density).sum_to_size(ctx.shape) / (2 * std)
        return to_mean * below, for_variance


class _MeanAndVariance(torch.autograd.Function):
    """∂Var/∂mean = 2 E Φ(-h), ∂Var/∂variance = Φ - E φ / std."""

    @staticmethod
    @override
    def forward(ctx: Any, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        std = std_of(variance)
        h = mean / std
        below, density = cdf(h), pdf(h)
        above = 1 - below
        expected = torch.addcmul(mean * below, std, density)
        share = below + h * (h * below * above + density * (above - below)) - density.square()
        ctx.save_for_backward(below, density, std, expected)
        ctx.shape = variance.shape
        return expected, (share * variance).clamp_min(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_mean: Tensor, to_variance: Tensor) -> tuple[Tensor, Tensor | None]:
        below, density, std, expected = ctx.saved_tensors
        for_mean = torch.addcmul(to_mean * below, to_variance * expected, 1 - below, value=2)
        for_variance = None
        if ctx.needs_input_grad[1]:
            steepness = density / std
            slope = torch.addcmul(to_mean * (0.5 * steepness), to_variance, below - expected * steepness)
            for_variance = slope.sum_to_size(ctx.shape)
        return for_mean, for_variance
