"""The larger of two jointly normal variables (Clark, Operations Research 1961)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from withstand.moments.normal import cdf, pdf, std_of
from withstand.moments.rectified import rectified_mean

__all__ = ["Larger", "larger"]


class Larger(NamedTuple):
    """The moments of max(x, y).

    Attributes:
        mean: Its mean.
        variance: Its variance, nowhere negative.
        share: P(x > y): max(x, y) covaries with all that is jointly normal with x and y by
            share · Cov(x, ·) + (1 - share) · Cov(y, ·).
    """

    mean: Tensor
    variance: Tensor
    share: Tensor


def larger(
    mean: Tensor,
    variance: Tensor,
    other_mean: Tensor,
    other_variance: Tensor,
    covariance: Tensor | float = 0.0,
) -> Larger:
    """The moments of max(x, y); exact where x and y are jointly normal.

    Args:
        mean: Of x.
        variance: Of x, nowhere negative.
        other_mean: Of y.
        other_variance: Of y, nowhere negative.
        covariance: Of x and y.
    """
    apart = mean - other_mean
    squared = (variance + other_variance - 2 * covariance).clamp_min(0)
    std = std_of(squared)
    h = apart / std
    share, density = cdf(h), pdf(h)
    rest = 1 - share
    # Not y + max(x - y, 0), which loses x where y is far below: as padding is.
    expected = torch.maximum(mean, other_mean) + rectified_mean(-apart.abs(), squared)
    # Without differences of second moments.
    spread = (
        variance * share
        + other_variance * rest
        + apart * (apart * share * rest + std * density * (rest - share))
        - squared * density.square()
    )
    return Larger(expected, spread.clamp_min(0), share)
