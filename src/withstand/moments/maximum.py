"""The larger of two jointly normal variables (Clark, Operations Research 1961).

With a = mean x - mean y, s² = Var(x - y), h = a / s: E = mean x Φ + mean y Φ' + s φ, where Φ = Φ(h) and
Φ' = Φ(-h); Var = Var x Φ + Var y Φ' + a² Φ Φ' + a s φ (Φ' - Φ) - s² φ², without differences of second
moments. It follows from max(x, y) = y + max(x - y, 0).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from withstand.moments.normal import cdf, pdf, std_of


def larger(
    mean: Tensor,
    variance: Tensor,
    other_mean: Tensor,
    other_variance: Tensor,
    covariance: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean and variance of max(x, y); exact where x and y are jointly normal.

    Args:
        mean: Of x.
        variance: Of x, nowhere negative; broadcasts to the mean.
        other_mean: Of y.
        other_variance: Of y, nowhere negative; broadcasts to the mean.
        covariance: Of x and y; independent where None.

    Returns:
        Two tensors like ``mean``, which can be differentiated once.
    """
    expected, spread = _Larger.apply(mean, variance, other_mean, other_variance, covariance)  # type: ignore[no-untyped-call]
    return expected, spread


def share_of_first(
    mean: Tensor,
    variance: Tensor,
    other_mean: Tensor,
    other_variance: Tensor,
    covariance: Tensor | None = None,
) -> Tensor:
    """P(x > y), by which max(x, y) covaries with all that is jointly normal with x and y.

    That is Cov(max(x, y), ·) = share Cov(x, ·) + (1 - share) Cov(y, ·). Arguments are those of ``larger``.
    """
    return cdf((mean - other_mean) / std_of(_squared(variance, other_variance, covariance)))


def _squared(variance: Tensor, other_variance: Tensor, covariance: Tensor | None) -> Tensor:
    """Var(x - y)."""
    squared = variance + other_variance
    return squared if covariance is None else (squared - 2 * covariance).clamp_min(0)


class _Larger(torch.autograd.Function):
    """One pass each way, where autograd would keep a dozen tensors."""

    @staticmethod
    @override
    def forward(
        ctx: Any,
        mean: Tensor,
        variance: Tensor,
        other_mean: Tensor,
        other_variance: Tensor,
        covariance: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        apart = mean - other_mean
        std = std_of(_squared(variance, other_variance, covariance))
        h = apart / std
        share, density = cdf(h), pdf(h)
        # The mean of max(|a| + noise, 0), beyond |a|: so that no padding far below costs any digits.
        excess = torch.addcmul(std * density, h.abs(), cdf(-h.abs()) * std, value=-1).clamp_min_(0)
        expected = torch.maximum(mean, other_mean).add_(excess)
        rest = 1 - share
        spread = torch.addcmul(variance * share, other_variance, rest)
        skew = (std * density).mul_(rest - share).addcmul_(apart, share * rest)
        spread = spread.addcmul_(apart, skew).sub_((std * density).square_()).clamp_min_(0)
        ctx.save_for_backward(mean, variance, other_variance, covariance, expected, std, h, share, density)
        ctx.shapes = variance.shape, other_variance.shape
        return expected, spread

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_mean: Tensor, to_variance: Tensor) -> tuple[Tensor | None, ...]:
        mean, variance, other_variance, covariance, expected, std, h, share, density = ctx.saved_tensors
        rest, steepness = 1 - share, density / std
        own = variance if covariance is None else variance - covariance
        # ∂Var/∂mean x = -∂Var/∂mean y = 2 (Cov(x, x - y) φ / s - Φ (E - mean x))
        tilt = torch.addcmul(own * steepness, share, expected - mean, value=-1).mul_(2).mul_(to_variance)
        for_mean = torch.addcmul(tilt, to_mean, share)
        for_other = torch.addcmul(-tilt, to_mean, rest)
        # Of s² alone: ∂E = φ / (2 s); ∂Var = ((Var y - Var x) h φ / s² + h φ (Φ' - Φ) - 2 φ²) / 2
        spread = ((other_variance - variance) * steepness / std).add_(density * (rest - share)).mul_(h)
        spread = spread.addcmul_(density, density, value=-2).mul_(0.5)
        joint = torch.addcmul(0.5 * to_mean * steepness, to_variance, spread)
        own_shape, other_shape = ctx.shapes
        return (
            for_mean,
            torch.addcmul(joint, to_variance, share).sum_to_size(own_shape),
            for_other,
            torch.addcmul(joint, to_variance, rest).sum_to_size(other_shape),
            None if covariance is None else -2 * joint,
        )
