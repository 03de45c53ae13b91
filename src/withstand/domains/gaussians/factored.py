"""The normal distribution with factors that its coordinates share: correlated noise, sums of branches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Self, final

import torch
from torch import Tensor
from typing_extensions import override

from withstand.domains.gaussians.bending import Comparable
from withstand.domains.gaussians.coupling import Tangent
from withstand.domains.gaussians.diagonal import bent, gain, rearranged_deviations
from withstand.graph.bilinear import Multiplication
from withstand.graph.domain import NormOf
from withstand.graph.powers import SQUARE
from withstand.graph.primitives import Bilinear, Elementwise, Rearrange, Unimodal
from withstand.moments import larger, share_of_first
from withstand.operators import LinearOperator


@final
class FactoredGaussian(Comparable):
    """``mean + Σ_r factors[r] · z_r + rest``, with z_r standard normal, and the rest independent.

    Linear maps are exact. A function of each coordinate has its exact mean and variance; it keeps the
    covariances to first order, by its mean slope (Stein, 1981), and what is left of the variance is
    taken to be independent. Two values of one network share their z_r, so sums of branches covary.

    Args:
        mean: Tensor (batch, …).
        factors: Tensor (rank, batch or 1, …).
        rest: Variance of the rest, (batch or 1, …), nowhere negative; none where None.
    """

    def __init__(self, mean: Tensor, factors: Tensor, rest: Tensor | None = None) -> None:
        self._mean = mean
        self._factors = factors
        self._rest = torch.zeros_like(factors[0]) if rest is None else rest
        self._variance: Tensor | None = None  # made when it is first asked for: linear maps do without

    @property
    @override
    def variance(self) -> Tensor:
        now = self.now
        if now._variance is None:
            now._variance = now._factors.square().sum(0) + now._rest
        return now._variance

    @property
    def factors(self) -> Tensor:
        """What coordinates share, (rank, batch or 1, …)."""
        return self.now._factors

    @property
    def rest(self) -> Tensor:
        """Variance of what they do not share, (batch or 1, …)."""
        return self.now._rest

    @override
    def affine(self, operator: LinearOperator, bias: Tensor | None, norm: NormOf) -> Self:
        factors = self._map_factors(operator.apply)
        rest = operator.entrywise(torch.square).apply(self.rest)
        return type(self)(operator.affine(self.mean, bias), factors, rest)

    @override
    def shift(self, constant: Tensor | float) -> Self:
        return type(self)(self.mean + constant, self.factors, self.rest)

    @override
    def add(self, other: Self) -> Self:
        rest = 4 * self.rest if other is self else self.rest + other.rest
        return type(self)(self.mean + other.mean, self.factors + other.factors, rest)

    @override
    def product(self, other: Self, bilinear: Bilinear) -> Self:
        """Exact mean and factors, and of a multiplication the variance (Isserlis, Biometrika 1918).

        In a sum of products only what is linear in the factors covaries.
        """
        if other is self and isinstance(bilinear, Multiplication):
            return self.unimodal(SQUARE)
        covariance = bilinear(self.factors, other.factors).sum(0)
        factors = bilinear(self.factors, other.mean) + bilinear(self.mean, other.factors)
        rest = bilinear(self.mean.square(), other.rest) + bilinear(self.rest, other.mean.square())
        rest = rest + bilinear(self.variance, other.variance)
        if isinstance(bilinear, Multiplication):
            rest = rest + covariance.square()
        return type(self)(bilinear(self.mean, other.mean) + covariance, factors, rest)

    @override
    def cat(self, others: Sequence[Self], dim: int) -> Self:
        parts: list[Self] = [self, *others]
        length = max(part.factors.shape[1] for part in parts)
        factors = [part.factors.expand(-1, length, *part.mean.shape[1:]) for part in parts]
        rests = [part.rest.expand(length, *part.mean.shape[1:]) for part in parts]
        mean = torch.cat([part.mean for part in parts], dim)
        return type(self)(mean, torch.cat(factors, dim + 1), torch.cat(rests, dim))

    @override
    def larger(self, other: Self) -> Self:
        if other is self:
            return self
        covariance = (self.factors * other.factors).sum(0)
        pair = self.mean, self.variance, other.mean, other.variance, covariance
        (mean, variance), share = larger(*pair), share_of_first(*pair)
        return self._of(mean, variance, share * self.factors + (1 - share) * other.factors)

    @override
    def negated(self) -> Self:
        return type(self)(-self.mean, -self.factors, self.rest)

    @override
    def deviated(self, mean: Tensor, tangent: Tangent) -> Self:
        return type(self)(mean, tangent.apply(self.factors), tangent.squared(self.rest))

    @override
    def bent(self, function: Elementwise | Unimodal) -> Self:
        mean, variance = bent(function, self.mean, self.variance)
        return self._of(mean, variance, gain(function, self.mean, self.variance) * self.factors)

    @override
    def rearranged(self, function: Rearrange) -> Self:
        rearrange = partial(rearranged_deviations, function)
        return type(self)(function(self.mean), self._map_factors(rearrange), rearrange(self.rest))

    def _map_factors(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """A function of a batch, of each factor."""
        images = function(self.factors.flatten(0, 1))
        return images.reshape(*self.factors.shape[:2], *images.shape[1:])

    def _of(self, mean: Tensor, variance: Tensor, factors: Tensor) -> Self:
        """What has a variance of which factors explain a part."""
        return type(self)(mean, factors, (variance - factors.square().sum(0)).clamp_min(0))
