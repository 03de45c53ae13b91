"""Piecewise linear functions as sums of hinges, whose moments are closed forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from withstand.moments.normal import cdf, rectified, std_of


@dataclass(frozen=True, eq=False)
class Hinges:
    """f(x) = intercept + slope · x + Σ_k bends[k] · max(x - positions[k], 0).

    Args:
        positions: Where it bends, ascending.
        bends: How much its slope grows at each, one a position; floats, or tensors that broadcast to x.
        slope: On the far left.
        intercept: Of the far left piece, at x = 0.
    """

    positions: Sequence[float]
    bends: Sequence[float | Tensor]
    slope: float | Tensor = 0.0
    intercept: float = 0.0


RECTIFIER = Hinges((0.0,), (1.0,))
"""max(x, 0)."""


def hinged(mean: Tensor, variance: Tensor, hinges: Hinges) -> tuple[Tensor, Tensor]:
    """Mean and variance of a piecewise linear function of a normal z; exact.

    Args:
        mean: Of z.
        variance: Of z, nowhere negative; broadcasts to the mean.
        hinges: The function.

    Returns:
        Two tensors like ``mean``.
    """
    if hinges is RECTIFIER:  # by far the most frequent; the same, with fewer passes over memory
        return rectified(mean, variance)
    expected, spread = hinges.slope * mean + hinges.intercept, hinges.slope**2 * variance
    former: list[tuple[float | Tensor, Tensor]] = []
    for position, bend in zip(hinges.positions, hinges.bends, strict=True):
        shifted = mean - position
        own_mean, own_variance = rectified(shifted, variance)
        own_below = own_mean - shifted  # E (t-z)⁺, exactly 0 where z is always beyond t
        expected = expected + bend * own_mean
        spread = spread + bend**2 * own_variance
        if not _is_zero(hinges.slope):
            spread = spread + 2 * bend * hinges.slope * variance * cdf(shifted / std_of(variance))
        # Of two hinges at s < t: Cov = Var of the later + its mean · (E (t-z)⁺ - E (s-z)⁺), which is ≥ 0.
        for other_bend, other_below in former:
            both = own_variance + own_mean * (own_below - other_below)
            spread = spread + 2 * bend * other_bend * both
        former.append((bend, own_below))
    return expected, spread.clamp_min(0)


def hinged_gain(mean: Tensor, variance: Tensor, hinges: Hinges) -> Tensor:
    """E f'(z), by which f(z) covaries with all that is jointly normal with z (Stein, 1981).

    Args:
        mean: Of z.
        variance: Of z, nowhere negative; broadcasts to the mean.
        hinges: The function f.

    Returns:
        A tensor like ``mean``.
    """
    std = std_of(variance)
    gain = torch.zeros_like(mean) + hinges.slope
    for position, bend in zip(hinges.positions, hinges.bends, strict=True):
        gain = gain + bend * cdf((mean - position) / std)
    return gain


def _is_zero(slope: float | Tensor) -> bool:
    return not isinstance(slope, Tensor) and slope == 0
