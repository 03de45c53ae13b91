"""The linear domain: each value between linear functions of the inputs, by backward passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self, TypeAlias, final

import torch
from torch import Tensor
from typing_extensions import override

from withstand.core import norms
from withstand.domains.linear.backward import least, refined
from withstand.domains.linear.curved import Curved, gap
from withstand.domains.linear.linear_inputs import InputSet, Interval
from withstand.domains.linear.nodes import (
    Affine,
    Between,
    Ends,
    Inputs,
    Joined,
    Moved,
    Node,
    Relu,
    Rows,
    Shifted,
    Sum,
)
from withstand.domains.linear.planes import Coupling
from withstand.domains.linear.products import Factor, Product
from withstand.domains.sets.box import Box
from withstand.domains.sets.box_ball import BoxBall
from withstand.graph.bilinear import Multiplication
from withstand.graph.comparing import Sortable, largest, pooled, sorted_in_groups
from withstand.graph.coupled import Largest
from withstand.graph.domain import NormOf, Region
from withstand.graph.point import Point
from withstand.graph.powers import SQUARE
from withstand.graph.primitives import (
    Bilinear,
    Coupled,
    Elementwise,
    MaxPool,
    Monotone,
    Rearrange,
    SortGroups,
    Unimodal,
)
from withstand.moments import Hinges
from withstand.operators import Diagonal, LinearOperator, Shape

_Image: TypeAlias = Callable[[Any], Any]
"""What one of the values that go along becomes: a point a point, a cover a cover."""

_LITTLE = 1e-3


@final
@dataclass(frozen=True, eq=False)
class Linear(Coupling, Sortable):
    """All that a record of linear maps and bent functions makes of a set of inputs.

    Where a function bends, the ends of its value are first made closer by a backward pass, in the coordinates
    whose ends lie on both sides of a bend. Nothing is ever looser than the cover.

    Args:
        node: The record.
        point: What the network makes of the middle of the inputs' cover.
        cover: A set, boxes say, that goes along.
        inputs: The set of inputs.
        refines: Whether ends are made closer by backward passes; else they are those of the cover, which is
            CROWN-IBP (Zhang et al., ICLR 2020).
        is_box: Whether the value is each point of a box in turn.
        is_exact: Whether the ends of the cover are the value's own, or as close as backward passes get.
    """

    node: Node
    point: Point
    cover: Region
    inputs: InputSet
    refines: bool = True
    is_box: bool = False
    is_exact: bool = False

    @classmethod
    def of(cls, inputs: InputSet, cover: Region, *, refines: bool = True) -> Self:
        """A set of inputs.

        Args:
            inputs: The set.
            cover: One that holds it.
            refines: As above.
        """
        is_box = isinstance(inputs, Interval)
        node = Inputs([], cover.example_shape)
        return cls(node, Point(cover.center), cover, inputs, refines, is_box=is_box, is_exact=is_box)

    @property
    @override
    def center(self) -> Tensor:
        return self.point.center

    @property
    @override
    def ends(self) -> Ends:
        return self.cover.ends

    @override
    def affine(self, operator: LinearOperator, bias: Tensor | None, norm: NormOf) -> Self:
        is_diagonal = isinstance(operator, Diagonal)
        return self._next(
            lambda shape: Affine([self.node], shape, operator, bias),
            lambda value: value.affine(operator, bias, norm),
            is_box=self.is_box and is_diagonal,
            is_exact=self.is_box or (self.is_exact and is_diagonal),
        )

    @override
    def shift(self, constant: Tensor | float) -> Self:
        added = torch.as_tensor(constant).to(self.center)
        return self._along(
            lambda shape: Shifted([self.node], shape, added), lambda value: value.shift(constant)
        )

    @override
    def monotone(self, function: Monotone) -> Self:
        match function:
            case Rearrange():
                return self._moved(function)
            case MaxPool():
                # By pairs the cover would be looser: a ball's maximum of two is farther than either.
                return replace(pooled(self, function), cover=self.cover.monotone(function))
            case SortGroups():
                return replace(sorted_in_groups(self, function), cover=self.cover.monotone(function))
            case Elementwise():
                return self._bent(function, lambda value: value.monotone(function))
        return self._enclosed(function)

    @override
    def unimodal(self, function: Unimodal) -> Self:
        return self._bent(function, lambda value: value.unimodal(function))

    @override
    def coupled(self, function: Coupled) -> Self:
        if isinstance(function, Largest):
            return replace(largest(self, function), cover=self.cover.coupled(function))
        return super().coupled(function)

    @override
    def add(self, other: Self) -> Self:
        node = Sum([self.node, other.node], self.example_shape, [1.0, 1.0])
        return self._of(node, self.point.add(other.point), self.cover.add(other.cover))

    @override
    def product(self, other: Self, bilinear: Bilinear) -> Self:
        if other is self and isinstance(bilinear, Multiplication):
            return self.unimodal(SQUARE)
        values = [self.settled()] if other is self else [self.settled(), other.settled()]
        factors = [Factor.of(value.ends) for value in values]
        point = self.point.product(values[-1].point, bilinear)
        parents = [self.node, other.node]
        node = Product(parents, point.example_shape, bilinear, factors[0], factors[-1])
        return self._of(node, point, values[0].cover.product(values[-1].cover, bilinear))

    @override
    def larger(self, other: Self) -> Self:
        return self._larger(other, self._rest(other))

    @override
    def exchanged(self, other: Self) -> tuple[Self, Self]:
        # They add up to both, and so share what bends.
        rest = self._rest(other)
        smaller = _negated(_negated(self.cover).larger(_negated(other.cover)))
        node, point = (
            Sum([self.node, rest], rest.shape, [1.0, -1.0]),
            torch.minimum(self.center, other.center),
        )
        return self._of(node, Point(point), smaller), self._larger(other, rest)

    @override
    def cat(self, others: Sequence[Self], dim: int) -> Self:
        point = self.point.cat([value.point for value in others], dim)
        node = Joined([self.node, *(value.node for value in others)], point.example_shape, dim)
        return self._of(node, point, self.cover.cat([value.cover for value in others], dim))

    @override
    def meet(self, other: Self) -> Self:
        # Paths that meet add up in the record; only the cover needs to be told that they are one operator.
        return replace(self, cover=self.cover.meet(other.cover))

    @override
    def worst_differences(self, weight: Tensor, labels: Tensor) -> Tensor:
        batch, classes = len(labels), len(weight)
        # Of fixed sizes, so that training need not wait for the device.
        others = (labels[:, None] + torch.arange(1, classes, device=labels.device)) % classes
        owner = torch.arange(batch, device=labels.device).repeat_interleave(classes - 1)
        below = (weight[labels, None] - weight[others]).flatten(0, 1)
        most = -least(self.node, Rows(below, owner), self.inputs).reshape(others.shape)
        bounds = most.new_zeros(batch, classes).scatter(1, others, most)
        gaps = weight[None] - weight[labels, None]
        at_center = (gaps @ self.center[..., None]).squeeze(-1)
        apart = (gaps @ (self.cover.center - self.center)[..., None]).squeeze(-1)
        return torch.minimum(bounds - at_center, self.cover.worst_differences(weight, labels) + apart)

    def _closer(self, is_wanted: Callable[[Tensor, Tensor], Tensor]) -> Ends:
        """The ends, made closer where that is wanted of them."""
        ends = self.ends
        if not self.refines or self.is_exact:
            return ends
        return refined(self.node, ends, is_wanted(*ends), self.inputs)

    @override
    def settled(self) -> Self:
        return replace(self, cover=_cut(self.cover, self._closer(torch.less)), is_exact=True)

    @override
    def reached(self, node: Node, function: Coupled, ends: Ends | None = None) -> Self:
        cover = self.cover.coupled(function)
        if ends is not None:
            lower, upper = cover.ends
            cover = _cut(cover, (torch.maximum(lower, ends[0]), torch.minimum(upper, ends[1])))
        return self._of(node, self.point.coupled(function), cover)

    def _moved(self, function: Rearrange) -> Self:
        constants = (
            function(self.center.new_zeros(1, *self.example_shape)) if function.sets_constants else None
        )
        return self._along(
            lambda shape: Moved([self.node], shape, function, constants),
            lambda value: value.monotone(function),
        )

    def _along(self, node_of: Callable[[Shape], Node], of: _Image) -> Self:
        """The image under what treats each coordinate alone, and so leaves a box one."""
        return self._next(node_of, of, is_box=self.is_box, is_exact=self.is_exact)

    def _next(self, node_of: Callable[[Shape], Node], of: _Image, *, is_box: bool, is_exact: bool) -> Self:
        point = of(self.point)
        reached = self._of(node_of(point.example_shape), point, of(self.cover))
        return replace(reached, is_box=is_box, is_exact=is_exact)

    def _of(self, node: Node, point: Point, cover: Region) -> Self:
        return replace(self, node=node, point=point, cover=cover, is_box=False, is_exact=False)

    def _bent(self, function: Elementwise | Unimodal, of: _Image) -> Self:
        """The image under a function of each coordinate."""
        hinges = function.hinges
        is_wanted = partial(_matters, function) if hinges is None else partial(_holds_bend, hinges)
        ends = self._closer(is_wanted)
        point, cover = of(self.point), of(_cut(self.cover, ends))
        node = (
            Curved([self.node], point.example_shape, ends, function)
            if hinges is None
            else _hinged(self.node, ends, hinges)
        )
        return self._of(node, point, cover)

    def _enclosed(self, function: Monotone) -> Self:
        """The image of which no more is known than its ends."""
        point, cover = self.point.monotone(function), self.settled().cover.monotone(function)
        return self._of(Between([], point.example_shape, cover.ends), point, cover)

    def _larger(self, other: Self, rest: Relu) -> Self:
        node = Sum([other.node, rest], rest.shape, [1.0, 1.0])
        return self._of(node, self.point.larger(other.point), self.cover.larger(other.cover))

    def _rest(self, other: Self) -> Relu:
        """max(self - other, 0)."""
        (lower, upper), (other_lower, other_upper) = self.ends, other.ends
        difference = Sum([self.node, other.node], self.example_shape, [1.0, -1.0])
        ends = lower - other_upper, upper - other_lower
        if self.refines:
            ends = refined(difference, ends, (ends[0] < 0) & (ends[1] > 0), self.inputs)
        return Relu([difference], self.example_shape, ends)


def _cut(cover: Region, ends: Ends) -> Region:
    return replace(cover, box=Box(*ends)) if isinstance(cover, BoxBall) else Box(*ends)


def _holds_bend(hinges: Hinges, lower: Tensor, upper: Tensor) -> Tensor:
    bends = [(lower < position) & (upper > position) for position in hinges.positions]
    return torch.stack(bends).any(dim=0)


def _matters(function: Elementwise | Unimodal, lower: Tensor, upper: Tensor) -> Tensor:
    """Where lines are apart by more than little of what those of the example's worst coordinate are."""
    apart = gap(function, (lower, upper))
    worst = norms.flat(apart.nan_to_num(0.0, 0.0)).amax(1)
    return apart > _LITTLE * norms.per_example(worst, apart)


def _hinged(node: Node, ends: Ends, hinges: Hinges) -> Node:
    """A piecewise linear function as a sum of bends."""
    (lower, upper), shape = ends, node.shape
    terms: list[tuple[Node, float | Tensor]] = [(node, hinges.slope)]
    for position, bend in zip(hinges.positions, hinges.bends, strict=True):
        start = Shifted([node], shape, lower.new_full((), -position)) if position else node
        terms.append((Relu([start], shape, (lower - position, upper - position)), bend))
    parents, factors = zip(*(term for term in terms if isinstance(term[1], Tensor) or term[1]), strict=True)
    whole = Sum(parents, shape, factors)
    return Shifted([whole], shape, lower.new_full((), hinges.intercept)) if hinges.intercept else whole


def _negated(cover: Region) -> Region:
    minus = Diagonal(cover.center.new_full((), -1.0))
    return cover.affine(minus, None, lambda operator, shape: operator.entries.abs())
