"""The record of what a network does to its inputs.

A row of coefficients r stands for the linear function r · z of a node's value z. Pulled back through the
node it becomes coefficients of the nodes that z is made of, and a constant: r · z is nowhere below their sum.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from typing_extensions import override

from withstand.core import norms
from withstand.operators import LinearOperator, Shape
from withstand.operators.linear_operators import transposed

_COUNT = itertools.count()


class Rows(NamedTuple):
    """Coefficients of linear functions of a node's value.

    Attributes:
        values: Tensor (rows, *shape).
        owner: Integers (rows,): of which example each row is; or (1,), where all are of one.
    """

    values: Tensor
    owner: Tensor

    @property
    def num_rows(self) -> int:
        """How many there are."""
        return len(self.values)


Ends: TypeAlias = tuple[Tensor, Tensor]
"""Lower and upper ends of each coordinate, (batch, …) each."""


@dataclass(frozen=True, eq=False)
class Node(ABC):
    """The interface of one value of a network, (batch, *shape).

    Args:
        parents: What it is made of.
        shape: Of one example.
    """

    parents: Sequence[Node]
    shape: Shape
    index: int = field(default_factory=lambda: next(_COUNT), init=False)
    """Grows along the network: a node's is above those of its parents."""

    @abstractmethod
    def pull_back(self, rows: Rows) -> tuple[Sequence[Tensor], Tensor | float]:
        """Coefficients of the parents, and a constant, whose sum is nowhere above that of the rows.

        Returns:
            For each parent a tensor (rows, *its shape), and a tensor (rows,) or a number.
        """


@dataclass(frozen=True, eq=False)
class Inputs(Node):
    """The inputs of the network."""

    @override
    def pull_back(self, rows: Rows) -> tuple[Sequence[Tensor], float]:
        return [], 0.0


@dataclass(frozen=True, eq=False)
class Affine(Node):
    """A x + b.

    Args:
        operator: A.
        bias: b, which broadcasts to (batch, *shape); none where None.
    """

    operator: LinearOperator
    bias: Tensor | None

    @override
    def pull_back(self, rows: Rows) -> tuple[Sequence[Tensor], Tensor | float]:
        back = self.operator.transposed(rows.values, self.parents[0].shape)
        return [back], 0.0 if self.bias is None else along(rows.values, of_rows(rows, self.bias))


@dataclass(frozen=True, eq=False)
class Moved(Node):
    """Coordinates moved or picked out, with constants beside them.

    Args:
        function: Of a tensor (batch, …).
        constants: What it makes of 0, (1, *shape); none where it sets no constants.
    """

    function: Callable[[Tensor], Tensor]
    constants: Tensor | None

    @override
    def pull_back(self, rows: Rows) -> tuple[Sequence[Tensor], Tensor | float]:
        back = transposed(self.function, rows.values, self.parents[0].shape)
        return [back], 0.0 if self.constants is None else along_any(rows.values, self.constants)


@dataclass(frozen=True, eq=False)
class Shifted(Node):
    """x + constant.

    Args:
        constant: Broadcasts to (batch, *shape).
    """

    constant: Tensor

    @override
    def pull_back(self, rows: Rows) -> tuple[Sequence[Tensor], Tensor]:
        return [rows.values], along_any(rows.values, of_rows(rows, self.constant))


@dataclass(frozen=True, eq=False)
class Sum(Node):
    """The sum of values of one shape, each times a factor.

    Args:
        factors: One number or tensor a parent; a tensor broadcasts to (batch, *shape).
    """

    factors: Sequence[float | Tensor]

    @override
    def pull_back(self, rows: Rows) -> tuple[Sequence[Tensor], float]:
        return [_times(rows.values, factor) for factor in self.factors], 0.0


@dataclass(frozen=True, eq=False)
class Joined(Node):
    """Values one after another.

    Args:
        dim: Of the batched tensor, at least 1.
    """

    dim: int

    @override
    def pull_back(self, rows: Rows) -> tuple[Sequence[Tensor], float]:
        sizes = [parent.shape[self.dim - 1] for parent in self.parents]
        return torch.split(rows.values, sizes, self.dim), 0.0


@dataclass(frozen=True, eq=False)
class Between(Node):
    """A value of which no more is known than its ends.

    Args:
        ends: Of each coordinate.
    """

    ends: Ends

    @override
    def pull_back(self, rows: Rows) -> tuple[Sequence[Tensor], Tensor]:
        lower, upper = (chosen(norms.flat(end.expand(-1, *self.shape)), rows.owner) for end in self.ends)
        flat = norms.flat(rows.values)
        return [], (flat.clamp_min(0) * lower + flat.clamp_max(0) * upper).sum(1)


class Lines(NamedTuple):
    """Two lines of each coordinate, one nowhere above a function between its ends and one nowhere below.

    Attributes:
        lower_slope: Tensor (batch, *shape).
        lower_offset: Tensor (batch, *shape), or None for 0.
        upper_slope: Tensor (batch, *shape).
        upper_offset: Tensor (batch, *shape).
    """

    lower_slope: Tensor
    lower_offset: Tensor | None
    upper_slope: Tensor
    upper_offset: Tensor

    def pull_back(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """As of a node."""
        return self.made(lambda line: chosen(line, rows.owner)).applied(rows.values, along)

    def made(self, function: Callable[[Tensor], Tensor]) -> Lines:
        """A function of each of them."""
        offset = None if self.lower_offset is None else function(self.lower_offset)
        return Lines(
            function(self.lower_slope), offset, function(self.upper_slope), function(self.upper_offset)
        )

    def applied(self, values: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """As of a node: a coefficient above 0 takes the lower line, one below the upper.

        Args:
            values: Of the rows whose lines these are, (rows, …).
            product: Of each row and a constant, such as ``along``.
        """
        below = values.clamp_max(0)
        back = values * torch.where(values > 0, self.lower_slope, self.upper_slope)
        constant = product(below, self.upper_offset)
        if self.lower_offset is not None:
            constant = constant + product(values - below, self.lower_offset)
        return back, constant


@dataclass(frozen=True, eq=False)
class Bent(Node):
    """A function of each coordinate of one value, between two lines.

    Args:
        ends: Between which the value is known to lie.
    """

    ends: Ends

    @abstractmethod
    def lines(self, ends: Ends) -> Lines:
        """The lines between ends; those of the node itself, or closer ones."""

    def has_free_slope(self, ends: Ends) -> Tensor:
        """Where the lower line may as well be one through 0 of any slope in [0, 1]; bools like the ends."""
        return torch.zeros_like(ends[0], dtype=torch.bool)

    def bend(self, ends: Ends) -> tuple[Tensor, Tensor]:
        """Where a split of what lies between ends brings the lines closer, and the places of the splits.

        Returns:
            Bools, and floats, of the shape of the ends.
        """
        lower, upper = ends
        return lower < upper, (lower + upper) / 2

    @cached_property
    def own_lines(self) -> Lines:
        """The lines between the node's own ends."""
        return self.lines(self.ends)

    @override
    def pull_back(self, rows: Rows) -> tuple[Sequence[Tensor], Tensor]:
        back, constant = self.own_lines.pull_back(rows)
        return [back], constant


@dataclass(frozen=True, eq=False)
class Relu(Bent):
    """max(x, 0): the line through both ends above; below the one of 0 and x that leaves less between.

    Zhang et al., "Efficient neural network robustness certification" (NeurIPS 2018), with adaptive slopes.
    """

    @override
    def lines(self, ends: Ends) -> Lines:
        lower, upper = ends
        is_bent = (lower < 0) & (upper > 0)
        # No gradient where it does not bend: at 0 that of the quotient is infinite.
        upper_slope = torch.where(is_bent, upper / torch.where(is_bent, upper - lower, 1.0), lower >= 0)
        lower_slope = (upper > -lower).to(upper_slope)
        return Lines(lower_slope, None, upper_slope, -lower.clamp_max(0) * upper_slope)

    @override
    def has_free_slope(self, ends: Ends) -> Tensor:
        return (ends[0] < 0) & (ends[1] > 0)

    @override
    def bend(self, ends: Ends) -> tuple[Tensor, Tensor]:
        return self.has_free_slope(ends), torch.zeros_like(ends[0])


def _times(values: Tensor, factor: float | Tensor) -> Tensor:
    return values if isinstance(factor, float) and factor == 1 else values * factor


def chosen(values: Tensor, owner: Tensor) -> Tensor:
    """What each row is to know of its example; of a batch of one, the one for all."""
    return values if len(values) == 1 else values[owner]


def along(values: Tensor, constant: Tensor) -> Tensor:
    """Each row times a constant, (rows,).

    Args:
        values: Of the rows, (rows, …).
        constant: Finite; broadcasts to them.
    """
    constant = constant.reshape(*[1] * (values.dim() - constant.dim()), *constant.shape)
    shared = [dim for dim, size in enumerate(constant.shape) if dim and size < values.shape[dim]]
    values, constant = norms.flat(values.sum(shared) if shared else values), norms.flat(constant)
    return values @ constant[0] if len(constant) == 1 else torch.einsum("rn,rn->r", values, constant)


def along_any(values: Tensor, constant: Tensor) -> Tensor:
    """The same of a constant that may be infinite where a row is 0."""
    return norms.flat(torch.where(values == 0, 0.0, values * constant)).sum(1)


def of_rows(rows: Rows, constant: Tensor) -> Tensor:
    """A constant that broadcasts to (batch, …), as it broadcasts to (rows, …)."""
    return chosen(constant, rows.owner) if constant.dim() == rows.values.dim() else constant
