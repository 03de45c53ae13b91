"""The normal distribution with its whole covariance matrix, for networks small enough to afford it.

Exact through the first affine maps, and through the first piecewise linear function or maximum of two
that follows, covariances included. From there on what comes out is taken for normal with the moments it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Self, final

import torch
from torch import Tensor
from typing_extensions import override

from withstand.domains.gaussians.bending import Bending, unknown
from withstand.domains.gaussians.coupling import Tangent
from withstand.domains.gaussians.covariance_matrices import (
    Map,
    alike,
    both_sides,
    on_rows,
    on_rows_of_each,
    order_of_cat,
    require_affordable,
)
from withstand.domains.gaussians.diagonal import bent, gain, without_constants
from withstand.graph.bilinear import MatrixProduct, Multiplication
from withstand.graph.comparing import gathered, without_gathered
from withstand.graph.coupled import Largest
from withstand.graph.domain import NormOf
from withstand.graph.powers import SQUARE
from withstand.graph.primitives import (
    Bilinear,
    Elementwise,
    MaxPool,
    Monotone,
    Rearrange,
    SortGroups,
    Unimodal,
    moved,
    window_places,
)
from withstand.moments import cdf, rectified, std_of
from withstand.moments.covariance import (
    correlation_of,
    expanded_covariance,
    hermite_coefficients,
    hinged_covariance,
    product_covariance,
    rectified_covariance,
)
from withstand.operators import LinearOperator
from withstand.types import ModelError

_DEGREE = 8  # of the expansion of smooth functions


@final
class CorrelatedGaussian(Bending):
    """Normal tensors with correlated coordinates.

    Args:
        mean: Tensor (batch, …), n numbers an example.
        covariance: Tensor (batch, n, n), or (1, n, n) where it is the same for all examples, which
            saves linear maps the work. Symmetric and positive semi-definite.
        link: Covariances with m independent standard normal variables that the noise is made of,
            (batch, n, m) or (1, n, m). Sums and concatenations need it, see ``add``.

    Raises:
        ModelError: by each operation, where its matrices would take more than 4 GiB.
    """

    def __init__(self, mean: Tensor, covariance: Tensor, link: Tensor | None = None) -> None:
        self._mean, self._covariance, self._link = mean, covariance, link

    @classmethod
    def independent(cls, mean: Tensor, variance: Tensor, *, linked: bool = False) -> Self:
        """Coordinates that are not correlated yet.

        Args:
            mean: Tensor (batch, …).
            variance: Broadcasts to it; (1, …) where it is the same for all examples.
            linked: Whether what is added up later remembers its noise; twice the memory.
        """
        length = len(variance) if variance.dim() == mean.dim() else 1
        spread = variance.expand(length, *mean.shape[1:]).flatten(1)
        require_affordable(length, spread.shape[1], spread)
        std = torch.where(spread > 0, std_of(spread), 0)
        link = torch.diag_embed(std) if linked else None
        return cls(mean, torch.diag_embed(spread), link)

    @property
    def covariance(self) -> Tensor:
        """Tensor (batch, n, n), or (1, n, n) for all examples."""
        return self.now._covariance

    @property
    def link(self) -> Tensor | None:
        """Covariances with what the noise is made of, (batch, n, m) or (1, n, m); None where unknown."""
        return self.now._link

    @property
    @override
    def variance(self) -> Tensor:
        diagonal = self.covariance.diagonal(dim1=-2, dim2=-1).clamp_min(0)
        return diagonal.reshape(len(diagonal), *self.example_shape)

    @override
    def affine(self, operator: LinearOperator, bias: Tensor | None, norm: NormOf) -> Self:
        return self._mapped(operator.apply, operator.affine(self.mean, bias))

    @override
    def through(self, function: Monotone) -> Self:
        match function:
            case Rearrange():
                return self._rearranged(function)
            case MaxPool():
                return self._pooled(function)
            case SortGroups():
                return self._sorted(function)
        raise unknown(function)

    @override
    def shift(self, constant: Tensor | float) -> Self:
        return type(self)(self.mean + constant, self.covariance, self.link)

    @override
    def add(self, other: Self) -> Self:
        """The sum of two that come from the same noise.

        Their covariance is that of the parts that are linear in the noise, so exact where one branch
        is affine in the input and the noise is normal.

        Raises:
            ModelError: there is no link.
        """
        own_link, other_link = _links([self, other])
        between = self.covariance if other is self else own_link @ other_link.mT
        covariance = self.covariance + other.covariance + between + between.mT
        return type(self)(self.mean + other.mean, covariance, own_link + other_link)

    @override
    def product(self, other: Self, bilinear: Bilinear) -> Self:
        """Exact for jointly normal values (Isserlis, Biometrika 1918), whose covariance is as in ``add``.

        A product of matrices is a multiplication of all rows with all columns, and sums.

        Raises:
            ModelError: there is no link, or it is another bilinear map.
        """
        match bilinear:
            case Multiplication():
                return self.unimodal(SQUARE) if other is self else self._multiplied(other)
            case MatrixProduct():
                rows = self._rearranged(moved(lambda x: x[..., None]))
                columns = other._rearranged(moved(lambda x: x[..., None, :, :]))
                products = rows._multiplied(columns)
                return products._mapped(lambda x: x.sum(-2), products.mean.sum(-2))
        raise ModelError(f"The products of {type(bilinear).__name__} are not known; write them as sums.")

    def _multiplied(self, other: Self) -> Self:
        x, y = self._spread_over(other), other._spread_over(self)
        own_link, other_link = _links([x, y])
        between = own_link @ other_link.mT
        own, others = x.mean.flatten(1), y.mean.flatten(1)
        covariance = product_covariance(own, others, x.covariance, y.covariance, between)
        mean = x.mean * y.mean + between.diagonal(dim1=1, dim2=2).reshape(-1, *x.mean.shape[1:])
        return type(self)(mean, covariance, others[:, :, None] * own_link + own[:, :, None] * other_link)

    def _spread_over(self, other: Self) -> Self:
        """Its dimensions of size 1 as large as the other's."""
        shape = tuple(max(sizes) for sizes in zip(self.example_shape, other.example_shape, strict=True))

        def spread(x: Tensor) -> Tensor:
            return x.expand(len(x), *shape)

        return self if shape == self.example_shape else self._mapped(spread, spread(self.mean))

    @override
    def larger(self, other: Self) -> Self:
        """Exact for jointly normal values, whose covariance is as in ``add``.

        Raises:
            ModelError: there is no link.
        """
        if other is self:
            return self
        first, second = (value._rearranged(moved(lambda x: x[:, None])) for value in (self, other))
        return first.cat([second], 1)._largest_of_stack()

    @override
    def largest(self, function: Largest) -> Self:
        stacked = self._rearranged(moved(lambda x: gathered(function.dims, x).movedim(-1, 1)))
        largest = stacked._largest_of_stack()
        return largest._rearranged(moved(lambda x: without_gathered(function, x[..., None])))

    @override
    def deviated(self, mean: Tensor, tangent: Tangent) -> Self:
        along = partial(on_rows_of_each, tangent.apply, shape=self.example_shape)
        link = None if self.link is None else along(self.link.mT).mT
        return type(self)(mean, along(along(self.covariance).mT), link)

    @override
    def cat(self, others: Sequence[Self], dim: int) -> Self:
        """One after another; covariances between them are as in ``add``.

        Raises:
            ModelError: there is no link.
        """
        parts: list[Self] = [self, *others]
        links = _links(parts)
        rows = []
        for part, own in zip(parts, links, strict=True):
            between = [own @ link.mT for link in links]
            blocks = [
                part.covariance if part is other else block
                for other, block in zip(parts, between, strict=True)
            ]
            rows.append(torch.cat(alike(blocks), 2))
        order = order_of_cat([part.example_shape for part in parts], dim).to(self.mean.device)
        covariance = torch.cat(alike(rows), 1)[:, order][:, :, order]
        link = torch.cat(alike(links), 1)[:, order]
        return type(self)(torch.cat([part.mean for part in parts], dim), covariance, link)

    def _mapped(self, function: Map, mean: Tensor) -> Self:
        """The image under a linear map, and its mean."""
        covariance = both_sides(function, self.covariance, self.example_shape)
        link = None if self.link is None else on_rows(function, self.link.mT, self.example_shape).mT
        return type(self)(mean, covariance, link)

    def _rearranged(self, function: Rearrange) -> Self:
        constants = function(self.mean.new_zeros(1, *self.example_shape))  # which have no variance
        return self._mapped(lambda rows: without_constants(function(rows), constants), function(self.mean))

    @override
    def bent(self, function: Elementwise | Unimodal) -> Self:
        own, spread = self.mean, self.variance
        require_affordable(len(own), own[:1].numel(), own)
        mean, variance = bent(function, own, spread)
        if function.hinges is not None:
            covariance = hinged_covariance(own, self.covariance, function.hinges)
        elif function.moments is not None and function.moments.covariance is not None:
            covariance = function.moments.covariance(own.flatten(1), self.covariance)
        elif function.moments is not None:
            slopes = function.moments.gain(own, spread).flatten(1)
            covariance = slopes[:, :, None] * slopes[:, None, :] * self.covariance
        else:
            terms = hermite_coefficients(function.function, own, spread, _DEGREE, num_nodes=16).flatten(2)
            covariance = expanded_covariance(terms, correlation_of(self.covariance))
        covariance = covariance.diagonal_scatter(variance.expand_as(mean).flatten(1), dim1=1, dim2=2)
        link = None if self.link is None else gain(function, own, spread).flatten(1)[:, :, None] * self.link
        return type(self)(mean, covariance, link)

    def _pooled(self, pool: MaxPool) -> Self:
        value: Self = self
        for places in window_places(pool, self.shape[2:]):
            value = value._largest(places)
        return value

    def _largest(self, places: Sequence[Rearrange]) -> Self:
        stacked = self._rearranged(Rearrange(lambda x: torch.stack([place(x) for place in places], 1)))
        return stacked._largest_of_stack()

    def _largest_of_stack(self) -> Self:
        """Along dimension 1, which goes."""
        stacked: Self = self
        while stacked.shape[1] > 1:
            stacked = stacked._halved()
        return stacked._rearranged(Rearrange(lambda x: x.squeeze(1)))

    def _halved(self) -> Self:
        """The larger of place i and i + half along dimension 1; of an odd number the last one stays."""
        half, places = self.shape[1] // 2, self.shape[1]

        def place(x: Tensor) -> Tensor:
            return torch.cat([x, x.new_zeros(len(x), places - 2 * half, *x.shape[2:])], 1)

        def joined(x: Tensor) -> Tensor:
            return torch.cat([x[:, half:], x[:, :half] - x[:, half : 2 * half]], 1)

        apart = self._mapped(joined, joined(self.mean))
        first, second, rest = torch.split(self.mean, [half, half, places - 2 * half], 1)
        tail, _ = rectified(-(first - second).abs(), apart.variance[:, places - half :])
        mean = torch.cat([torch.maximum(first, second) + tail, rest], 1)
        return apart._with_gain(first - second, place, mean)

    def _sorted(self, groups: SortGroups) -> Self:
        """By exchanges of neighbours, as many as it takes to bring the largest to the end."""
        stacked = self._rearranged(Rearrange(lambda x: torch.stack([*groups.split(x)], 1)))
        for end in range(stacked.shape[1] - 1, 0, -1):
            for index in range(end):
                stacked = stacked._exchanged(index)
        return stacked._rearranged(Rearrange(lambda x: groups.arrange(x.flatten(1, 2))))

    def _exchanged(self, index: int) -> Self:
        """Place ``index`` along dimension 1 and the next one in order."""
        after = self.shape[1] - index - 2

        def place(x: Tensor) -> Tensor:
            rest = x.shape[2:]
            return torch.cat([x.new_zeros(len(x), index, *rest), -x, x, x.new_zeros(len(x), after, *rest)], 1)

        def joined(x: Tensor) -> Tensor:
            return torch.cat([x, x[:, index : index + 1] - x[:, index + 1 : index + 2]], 1)

        apart = self._mapped(joined, joined(self.mean))
        before, first, second, rest = torch.split(self.mean, [index, 1, 1, after], 1)
        tail, _ = rectified(-(first - second).abs(), apart.variance[:, -1:])
        ordered = [torch.minimum(first, second) - tail, torch.maximum(first, second) + tail]
        return apart._with_gain(first - second, place, torch.cat([before, *ordered, rest], 1))

    def _with_gain(self, apart: Tensor, place: Map, mean: Tensor) -> Self:
        """Of base and difference, flat one after the other here: base + place(max(difference, 0)).

        Exact where they are jointly normal: Cov(y, max(d, 0)) = Cov(y, d) P(d > 0) (Stein, 1981).

        Args:
            apart: Mean of the difference, (batch, …).
            place: Puts what is gained where it belongs in the base.
            mean: Of the result.
        """
        shape, size = tuple(apart.shape[1:]), mean.shape[1:].numel()
        base, across, own = (
            self.covariance[:, :size, :size],
            self.covariance[:, :size, size:],
            self.covariance[:, size:, size:],
        )
        flat = apart.flatten(1)
        share = cdf(flat / std_of(own.diagonal(dim1=1, dim2=2)))
        gained = on_rows(place, across * share[:, None, :], shape)
        both = both_sides(place, rectified_covariance(flat, own), shape)
        link = self.link
        if link is not None:
            parts = link[:, size:] * share[:, :, None]
            link = link[:, :size] + on_rows(place, parts.mT, shape).mT
        return type(self)(mean, base + gained + gained.mT + both, link)


def _links(parts: Sequence[CorrelatedGaussian]) -> list[Tensor]:
    links = [part.link for part in parts if part.link is not None]
    if len(links) < len(parts):
        raise ModelError(
            "The network adds or joins values that come from the same noise, and how they are correlated "
            "is not known. Start from CorrelatedGaussian.independent(mean, variance, linked=True), or give "
            "CorrelatedGaussian a link of its own."
        )
    return links
