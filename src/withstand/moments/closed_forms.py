"""Moments of exponentials, logarithms and powers of a normal variable z, in closed form.

exp(z) is log-normal. A function that is defined for positive numbers alone has no moments of a normal z,
which may be negative; there z is taken for the log-normal variable of the same mean and variance, x = exp(g)
with Var g = u = log(1 + Var z / (E z)²) (Johnson, Kotz, Balakrishnan, Continuous Univariate Distributions 1,
1994, chapter 14). Then E x^p = (E z)^p exp(p (p - 1) u / 2) and Var x^p = (E x^p)² (exp(p² u) - 1), to third
order in the deviation those of z; and the logarithm of an exponential is the normal variable again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClosedMoments:
    """The moments of f(z), elementwise, of normal z.

    Args:
        both: (mean, variance) of z -> mean and variance of f(z).
        gain: (mean, variance) of z -> Cov(f(z), z) / Var z; at variance 0 the slope.
        covariance: (mean (batch, n), covariance (batch or 1, n, n)) of z -> covariance of f(z),
            (batch, n, n); to first order, by the gains, where None.
    """

    both: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    gain: Callable[[Tensor, Tensor], Tensor]
    covariance: Callable[[Tensor, Tensor], Tensor] | None = None


def power_moments(exponent: float) -> ClosedMoments:
    """Of z^p, z taken for log-normal; NaN where the mean is 0, or negative and the power not an integer.

    Args:
        exponent: p.
    """
    return ClosedMoments(partial(_of_power, exponent), partial(_power_gain, exponent))


def _mean_exp(mean: Tensor, variance: Tensor) -> Tensor:
    return torch.exp(mean + variance / 2)


def _of_exp(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    expected = _mean_exp(mean, variance)
    return expected, expected.square() * torch.expm1(variance)


def _exp_covariance(mean: Tensor, covariance: Tensor) -> Tensor:
    expected = _mean_exp(mean, covariance.diagonal(dim1=1, dim2=2))
    return expected[:, :, None] * expected[:, None, :] * torch.expm1(covariance)


def _of_square(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    squared = mean.square()
    return squared + variance, 2 * variance * (2 * squared + variance)


def _square_gain(mean: Tensor, variance: Tensor) -> Tensor:
    return 2 * mean


def _square_covariance(mean: Tensor, covariance: Tensor) -> Tensor:
    return 2 * covariance * (2 * mean[:, :, None] * mean[:, None, :] + covariance)


def _spread(mean: Tensor, variance: Tensor) -> Tensor:
    """Var z / (E z)²."""
    return variance / mean.square()


def _of_log(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    own = torch.log1p(_spread(mean, variance))
    return torch.log(mean) - own / 2, own


def _log_gain(mean: Tensor, variance: Tensor) -> Tensor:
    spread = _above_zero(_spread(mean, variance))
    return torch.log1p(spread) / (spread * mean)


def _of_power(exponent: float, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    own = torch.log1p(_spread(mean, variance))
    expected = mean.pow(exponent) * torch.exp(exponent * (exponent - 1) / 2 * own)
    return expected, expected.square() * torch.expm1(exponent**2 * own)


def _power_gain(exponent: float, mean: Tensor, variance: Tensor) -> Tensor:
    spread = _above_zero(_spread(mean, variance))
    expected, _ = _of_power(exponent, mean, variance)
    return expected * torch.expm1(exponent * torch.log1p(spread)) / (spread * mean)


def _above_zero(spread: Tensor) -> Tensor:
    """What can be divided by, and is too small to be seen."""
    return spread.clamp_min(torch.finfo(spread.dtype).eps ** 2)


EXPONENTIAL = ClosedMoments(_of_exp, _mean_exp, _exp_covariance)
SQUARED = ClosedMoments(_of_square, _square_gain, _square_covariance)
LOGARITHM = ClosedMoments(_of_log, _log_gain)
