"""Functions of several coordinates of an example: softmax and its like, normalisation, the largest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from withstand.core import norms
from withstand.graph.primitives import Coupled


def sum_of_others(x: Tensor, dim: int) -> Tensor:
    """For each coordinate the sum of all others along a dimension, of which it takes nothing away again."""
    count = x.shape[dim]
    others = 1 - torch.eye(count, dtype=x.dtype, device=x.device)
    return (x.movedim(dim, -1) @ others).movedim(-1, dim)


def log_sum_of_others(x: Tensor, dim: int) -> Tensor:
    """For each i along a dimension log Σ_{j ≠ i} exp x_j; finite also where all others are far below."""
    peak = x.detach().amax(dim, keepdim=True)
    others = sum_of_others((x - peak).exp(), dim)
    return peak + others.clamp_min(torch.finfo(x.dtype).tiny).log()


def _log_odds(lower: Tensor, upper: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """What the logarithm of p_i / (1 - p_i) is between, p a softmax: x_i - log Σ_{j ≠ i} exp x_j."""
    return lower - log_sum_of_others(upper, dim), upper - log_sum_of_others(lower, dim)


def _length_of_softmax(dim: int, lower: Tensor, upper: Tensor) -> Tensor:
    """A bound on ‖p‖₂ along a dimension that is kept: ‖p‖² ≤ max p, as Σ p = 1."""
    _, most = Softmax(dim).bounds(lower, upper)
    length: Tensor = torch.linalg.vector_norm(most, dim=dim, keepdim=True)
    return torch.minimum(length, most.amax(dim, keepdim=True).sqrt())


def _largest(bounds: Tensor) -> Tensor:
    """Of each example: rows that a function treats apart do not add up."""
    return norms.flat(bounds).amax(1)


@dataclass(frozen=True)
class Softmax(Coupled):
    """exp x_i / Σ_j exp x_j.

    Args:
        dim: Of the batched tensor, at least 1.
    """

    dim: int

    @override
    def __call__(self, x: Tensor) -> Tensor:
        return torch.softmax(x, self.dim)

    @override
    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """1 / (1 + Σ_{j ≠ i} exp(x_j - x_i)) at the worst corners: exact, coordinate by coordinate."""
        least, most = _log_odds(lower, upper, self.dim)
        return torch.sigmoid(least), torch.sigmoid(most)

    @override
    def lipschitz(self, midpoint: Tensor, radius: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """The Jacobian diag(p) - p pᵀ is symmetric, its rows have absolute sums 2 p_i (1 - p_i) ≤ 1/2.

        That bounds its eigenvalues (Gershgorin); p_i is what the box allows.
        """
        least, most = self.bounds(lower, upper)
        nearest = torch.maximum(most.clamp_max(0.5), least)  # to 1/2
        return _largest(2 * nearest * (1 - nearest))


@dataclass(frozen=True)
class LogSoftmax(Coupled):
    """x_i - log Σ_j exp x_j.

    Args:
        dim: Of the batched tensor, at least 1.
    """

    dim: int

    @override
    def __call__(self, x: Tensor) -> Tensor:
        return torch.log_softmax(x, self.dim)

    @override
    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """As of ``Softmax``."""
        least, most = _log_odds(lower, upper, self.dim)
        return F.logsigmoid(least), F.logsigmoid(most)

    @override
    def lipschitz(self, midpoint: Tensor, radius: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """The Jacobian 1 - 1 pᵀ is a projection, and so as long as the other one, 1 pᵀ: √n ‖p‖.

        ‖1 - P‖ = ‖P‖ for all projections but 0 and 1 (Szyld, Numerical Algorithms 2006).
        """
        return _largest(math.sqrt(midpoint.shape[self.dim]) * _length_of_softmax(self.dim, lower, upper))


@dataclass(frozen=True)
class LogSumExp(Coupled):
    """log Σ_j exp x_j.

    Args:
        dim: Of the batched tensor, at least 1.
        keepdim: Whether it stays, of size 1.
    """

    dim: int
    keepdim: bool = False

    @override
    def __call__(self, x: Tensor) -> Tensor:
        return torch.logsumexp(x, self.dim, keepdim=self.keepdim)

    @override
    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """It is monotone."""
        return self(lower), self(upper)

    @override
    def lipschitz(self, midpoint: Tensor, radius: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """Its gradient is the softmax p."""
        return _largest(_length_of_softmax(self.dim, lower, upper))


@dataclass(frozen=True)
class Largest(Coupled):
    """The largest coordinate.

    Args:
        dims: Over these, of the batched tensor, at least 1 each.
        keepdim: Whether they stay, of size 1.
    """

    dims: Sequence[int]
    keepdim: bool = False

    @override
    def __call__(self, x: Tensor) -> Tensor:
        return x.amax(tuple(self.dims), keepdim=self.keepdim)

    @override
    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """It is monotone."""
        return self(lower), self(upper)

    @override
    def lipschitz(self, midpoint: Tensor, radius: Tensor, lower: Tensor, upper: Tensor) -> float:
        """No coordinate stands in two results."""
        return 1.0


@dataclass(frozen=True)
class Length(Coupled):
    """The l2 norm, or √(Σ x² + added).

    Args:
        dims: Over these, of the batched tensor, at least 1 each.
        keepdim: Whether they stay, of size 1.
        added: At least 0.
    """

    dims: Sequence[int]
    keepdim: bool = False
    added: float = 0.0

    @override
    def __call__(self, x: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(x, dim=tuple(self.dims), keepdim=self.keepdim)
        return (length.square() + self.added).sqrt() if self.added else length

    @override
    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the box's nearest and farthest corners."""
        nearest = torch.maximum(lower, -upper).clamp_min(0)
        return self(nearest), self(torch.maximum(-lower, upper))

    @override
    def lipschitz(self, midpoint: Tensor, radius: Tensor, lower: Tensor, upper: Tensor) -> float:
        """No coordinate stands in two results."""
        return 1.0


@dataclass(frozen=True)
class Normalization(Coupled):
    """(x - mean x) / √(Var x + eps), the core of layer, group and instance norm; Var divides by n.

    Args:
        dims: Over which mean and variance are taken, of the batched tensor, at least 1 each.
        eps: At least 0; bounds are finite where it is above.
        centered: Whether the mean is taken away; else x / √(mean x² + eps), as in RMSNorm.
    """

    dims: Sequence[int]
    eps: float
    centered: bool = True

    def count(self, x: Tensor) -> int:
        """n, how many numbers are normalised together."""
        return math.prod(x.shape[dim] for dim in self.dims)

    def mean(self, x: Tensor) -> Tensor:
        """Over the dimensions, which stay."""
        return x.mean(tuple(self.dims), keepdim=True)

    def center(self, x: Tensor) -> Tensor:
        """Takes the mean away, where that is to be done."""
        return x - self.mean(x) if self.centered else x

    @override
    def __call__(self, x: Tensor) -> Tensor:
        centered = self.center(x)
        return centered / (self.mean(centered.square()) + self.eps).sqrt()

    @override
    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """By x_i's distance t from the mean of the others, and their scatter Q around that mean.

        y_i = (n-1)/n t / √((n-1)/n² t² + Q/n + eps) grows with t, and |y_i| falls with Q; both are bounded
        apart. Without centring, t = x_i and Q = Σ_{j≠i} x_j², and y_i = t / √(t²/n + Q/n + eps): exact.
        """
        count = self.count(lower)
        if self.centered:
            offset = self.mean((lower + upper) / 2)  # which changes nothing but the rounding
            lower, upper = lower - offset, upper - offset
            share, others = (count - 1) / count, max(count - 1, 1)
            least = lower - (count * self.mean(upper) - upper) / others
            most = upper - (count * self.mean(lower) - lower) / others
            scatter = self._scatter_of_others(lower, upper)
        else:
            share, least, most = 1.0, lower, upper
            scatter = self._squares_of_others(lower, upper)
        small, large = (part / count + self.eps for part in scatter)
        return (
            share * least / (share / count * least.square() + torch.where(least > 0, large, small)).sqrt(),
            share * most / (share / count * most.square() + torch.where(most > 0, small, large)).sqrt(),
        )

    def _scatter_of_others(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Σ_{j≠i} (x_j - mean)² at its least and most: its root is a seminorm of x.

        So between the midpoint's, less and more the length of the box's half-diagonal.
        """
        count = self.count(lower)
        midpoint = self.center((lower + upper) / 2)
        squares = midpoint.square()
        small, large = self._less_own(squares, squares * (count / max(count - 1, 1)))
        reach: Tensor = torch.linalg.vector_norm((upper - lower) / 2, dim=tuple(self.dims), keepdim=True)
        return (norms.root(small) - reach).clamp_min(0).square(), (norms.root(large) + reach).square()

    def _squares_of_others(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Σ_{j≠i} x_j² at its least and most."""
        nearest = torch.maximum(lower, -upper).clamp_min(0).square()
        farthest = torch.maximum(-lower, upper).square()
        return self._less_own(nearest, nearest)[0], self._less_own(farthest, farthest)[1]

    def _less_own(self, squares: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Σ_j squares_j - own_i, and what rounding may have taken: bounds from below and above."""
        total = self.count(squares) * self.mean(squares)
        slack = 8 * torch.finfo(squares.dtype).eps * total
        return (total - own - slack).clamp_min(0), (total - own + slack).clamp_min(0)

    @override
    def lipschitz(self, midpoint: Tensor, radius: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """2 / (s + s'), of √(Var + eps) at the midpoint and at its least over the ball.

        With √(n eps) as one more coordinate, the function is √n x / ‖x‖ of the centred x, followed by a
        projection, and ‖x/‖x‖ - y/‖y‖‖ ≤ 2 ‖x - y‖ / (‖x‖ + ‖y‖) (Dunkl, Williams, Amer. Math. Monthly
        1964). The deviation √Var is that of x over √n, and so changes by at most radius / √n.
        """
        root = math.sqrt(self.count(midpoint))
        centered = self.center(midpoint)
        std: Tensor = torch.linalg.vector_norm(centered, dim=tuple(self.dims), keepdim=True) / root
        least = (std - radius.reshape(-1, *[1] * (std.dim() - 1)) / root).clamp_min(0)
        sizes = (std.square() + self.eps).sqrt() + (least.square() + self.eps).sqrt()
        return _largest(2 / sizes)
