"""Planes for functions of several coordinates: h(Σ f(x_j)), f convex, h concave and rising, the whole convex.

log Σ exp x_j and √(Σ x_j² + c) are so. Below lies the plane that touches at the midpoint. Above, each f
lies below its chord, and h below its tangent. Of softmax in the form exp(x_i - log Σ exp x_j) these are
the linear bounds of Wei et al., "Convex bounds on the softmax function with applications to robustness
verification" (AISTATS 2023): they are closer than those by exponentials and a reciprocal, as in Shi et
al., "Robustness verification for transformers" (ICLR 2020), whose layer norm of centring, squares and
products is the one here, with the deviation.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from withstand.core import norms
from withstand.domains.linear.nodes import Between, Ends, Lines, Moved, Node, Rows, Sum
from withstand.graph.bilinear import Multiplication
from withstand.graph.coupled import Length, LogSoftmax, LogSumExp, Normalization, Softmax
from withstand.graph.domain import Region
from withstand.graph.powers import EXP, RECIPROCAL
from withstand.graph.primitives import Coupled, moved
from withstand.operators import Diagonal, LinearOperator, Shape

_ROUNDING = 16.0
"""Units of the last place by which planes are moved apart, of the size of their parts."""


@dataclass(frozen=True, eq=False)
class Folded(Node):
    """One number made of several of one value, between two planes.

    Args:
        lines: Slopes of each coordinate of the value, and offsets of the shape of what is made of it, of size
            1 in the dimensions that are folded.
    """

    lines: Lines

    @override
    def pull_back(self, rows: Rows) -> tuple[Sequence[Tensor], Tensor]:
        back, constant = self.lines.pull_back(rows)
        return [back], constant


@dataclass(frozen=True, eq=False)
class Kept(Node):
    """A value, of some coordinates of which no more is known than their ends.

    Args:
        ends: Of each coordinate.
        is_kept: Of which of them more is known; bools (batch, *shape).
    """

    ends: Ends
    is_kept: Tensor

    @override
    def pull_back(self, rows: Rows) -> tuple[Sequence[Tensor], Tensor]:
        is_kept = self.is_kept[rows.owner]
        rest = rows.values.where(~is_kept, 0.0)
        lower, upper = (torch.where(is_kept, 0.0, end[rows.owner]) for end in self.ends)
        constant = norms.flat(rest.clamp_min(0) * lower + rest.clamp_max(0) * upper).sum(1)
        return [rows.values.where(is_kept, 0.0)], constant


class Coupling(Region, ABC):
    """The interface of a set that is bounded by planes, also where functions take several coordinates."""

    node: Node
    """Of the value."""

    @abstractmethod
    def settled(self) -> Self:
        """The same set, its ends made as close as they get."""

    @abstractmethod
    def reached(self, node: Node, function: Coupled, ends: Ends | None = None) -> Self:
        """The image under a function, of which a node tells more.

        Args:
            node: Of the image.
            function: The function.
            ends: Between which the image is known to lie.
        """

    @override
    def coupled(self, function: Coupled) -> Self:
        value = self.settled()
        match function:
            case LogSumExp():
                return value._folded(function, log_sum_exp(value.ends, function.dim), (function.dim,))
            case Length():
                return value._folded(function, length(value.ends, function), function.dims)
            case LogSoftmax():
                return value._log_softmax(function)
            case Softmax():
                image = value._log_softmax(LogSoftmax(function.dim)).monotone(EXP)
                return value.reached(image.node, function, image.ends)
            case Normalization():
                return value._normalized(function)
        lower, upper = function.bounds(*value.ends)
        return value.reached(Between([], tuple(lower.shape[1:]), (lower, upper)), function)

    def _folded(self, function: LogSumExp | Length, lines: Lines, dims: Sequence[int]) -> Self:
        node = Folded([self.node], tuple(lines.upper_offset.shape[1:]), lines)
        kept = self.reached(node, replace(function, keepdim=True))
        return kept if function.keepdim else kept.monotone(moved(lambda x: x.squeeze(tuple(dims))))

    def _log_softmax(self, function: LogSoftmax) -> Self:
        """x_i - log Σ exp x_j."""
        lines, shape = log_sum_exp(self.ends, function.dim), self.example_shape
        total = Folded([self.node], tuple(lines.upper_offset.shape[1:]), lines)
        spread = Moved([total], shape, lambda x: x.expand(-1, *shape), None)
        return self.reached(Sum([self.node, spread], shape, [1.0, -1.0]), function)

    def _normalized(self, function: Normalization) -> Self:
        """√n d / √(Σ d² + n eps) of the centred d, where that is closer than the bounds of the whole."""
        count = function.count(self.center)
        centered = self
        if function.centered:
            own, other = (self.center.new_tensor(entry) for entry in (1 - 1 / count, -1 / count))
            operator = Centering(own, other, tuple(function.dims))
            centered = self.affine(operator, None, lambda operator, shape: own.new_ones(())).settled()
        size = centered.coupled(Length(function.dims, keepdim=True, added=count * function.eps))
        factor = Diagonal(self.center.new_tensor(math.sqrt(count)))
        scale = size.unimodal(RECIPROCAL).affine(factor, None, lambda operator, shape: operator.entries)
        image = centered.product(scale, Multiplication())
        lower, upper = function.bounds(*self.ends)
        (start, stop), (least, most) = centered.ends, scale.ends
        is_kept = (stop - start) * (most - least) < 2 * (upper - lower)
        return self.reached(
            Kept([image.node], self.example_shape, (lower, upper), is_kept), function, image.ends
        )


@dataclass(frozen=True, eq=False)
class Centering(LinearOperator):
    """x_i - mean x: one entry on the diagonal, and one everywhere else.

    Args:
        own: The entry on the diagonal, a scalar tensor.
        other: The other one.
        dims: Over which the mean is taken, of the batched tensor, at least 1 each.
    """

    own: Tensor
    other: Tensor
    dims: tuple[int, ...]

    @override
    def apply(self, x: Tensor) -> Tensor:
        return x * (self.own - self.other) + x.sum(self.dims, keepdim=True) * self.other

    @override
    def entrywise(self, function: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, own=function(self.own), other=function(self.other))

    @property
    @override
    def entries(self) -> Tensor:
        return self.own

    @override
    def transposed(self, y: Tensor, input_shape: Shape) -> Tensor:
        return self.apply(y)


def log_sum_exp(ends: Ends, dim: int) -> Lines:
    """Planes below and above log Σ exp x_j along a dimension, which is kept.

    Coordinates may be -inf, where they count nothing.
    """
    function = LogSumExp(dim, keepdim=True)
    lower, upper = ends
    middle = (lower + upper) / 2
    is_known = middle.isfinite()
    peak = upper.detach().amax(dim, keepdim=True)
    start, stop = (lower - peak).exp(), (upper - peak).exp()
    width = (upper - lower).where(is_known & (lower < upper), 1.0)
    chord = ((stop - start) / width).where(is_known & (lower < upper), 0.0)
    at_middle = (start + stop) / 2
    at_middle = at_middle.where(is_known, stop)
    total = at_middle.sum(dim, keepdim=True)
    place = middle.where(is_known, 0.0)
    share = torch.softmax(middle, dim).where(is_known, 0.0)
    slopes = share, chord / total
    heights = function(middle), peak + total.log()
    return _planes(slopes, heights, place, (dim,), 1.0)


def length(ends: Ends, function: Length) -> Lines:
    """Planes below and above √(Σ x_j² + c) along dimensions, which are kept."""
    lower, upper = ends
    dims = tuple(function.dims)
    middle = (lower + upper) / 2
    at_middle = replace(function, keepdim=True)(middle)
    # Chords of squares are 2 m x + …, at the midpoint (l² + u²) / 2.
    reach = norms.root((lower.square() + upper.square()).sum(dims, keepdim=True) / 2 + function.added)
    slopes = middle / at_middle.clamp_min(torch.finfo(middle.dtype).tiny), middle / reach
    return _planes(slopes, (at_middle, reach), middle, dims, 0.0)


def _planes(slopes: Ends, heights: Ends, middle: Tensor, dims: tuple[int, ...], unit: float) -> Lines:
    """Planes of those heights at the midpoint, moved apart by what may have been rounded, also of a unit."""
    below, above = (
        height - (slope * middle).sum(dims, keepdim=True)
        for slope, height in zip(slopes, heights, strict=True)
    )
    sizes = [
        unit + height.abs() + (slope * middle).abs().sum(dims, keepdim=True)
        for slope, height in zip(slopes, heights, strict=True)
    ]
    slack = _ROUNDING * torch.finfo(middle.dtype).eps * torch.maximum(*sizes).detach()
    return Lines(slopes[0], below - slack, slopes[1], above + slack)
