"""The record of what a network does to its inputs.

A row of coefficients r stands for the linear function r · z of a node's value z. Pulled back through the
node it becomes coefficients of the nodes that z is made of, and a constant: r · z is nowhere below their sum.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
        owner: Integers (rows,): of which example each row is.
    """

    values: Tensor
    owner: Tensor


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
        if self.bias is None:
            return [back], 0.0
        if self.bias.dim() == rows.values.dim() and len(self.bias) > 1:
            return [back], _along(rows, self.bias)
        # One for all examples, and finite: one product, which takes a training step less time.
        return [back], norms.flat(rows.values) @ self.bias.expand(1, *self.shape).flatten()


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
        return [back], 0.0 if self.constants is None else _along(rows, self.constants)


@dataclass(frozen=True, eq=False)
class Shifted(Node):
    """x + constant.

    Args:
        constant: Broadcasts to (batch, *shape).
    """

    constant: Tensor

    @override
    def pull_back(self, rows: Rows) -> tuple[Sequence[Tensor], Tensor]:
        return [rows.values], _along(rows, self.constant)


@dataclass(frozen=True, eq=False)
class Sum(Node):
    """The sum of values of one shape, each times a factor.

    Args:
        factors: One number or tensor a parent; a tensor broadcasts to (batch, *shape).
    """

    factors: Sequence[float | Tensor]

    @override
    def pull_back(self, rows: Rows) -> tuple[Sequence[Tensor], float]:
        return [rows.values if factor == 1 else rows.values * factor for factor in self.factors], 0.0


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
        lower, upper = (norms.flat(end.expand(-1, *self.shape))[rows.owner] for end in self.ends)
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
        """As of a node: a coefficient above 0 takes the lower line, one below the upper."""
        above, below = rows.values.clamp_min(0), rows.values.clamp_max(0)
        back = above * self.lower_slope[rows.owner] + below * self.upper_slope[rows.owner]
        constant = norms.flat(below * self.upper_offset[rows.owner]).sum(1)
        if self.lower_offset is not None:
            constant = constant + norms.flat(above * self.lower_offset[rows.owner]).sum(1)
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

    @override
    def pull_back(self, rows: Rows) -> tuple[Sequence[Tensor], Tensor]:
        back, constant = self.lines(self.ends).pull_back(rows)
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


def _along(rows: Rows, constant: Tensor) -> Tensor:
    """Each row times a constant that broadcasts to (batch, …), which may be infinite where the row is 0."""
    values = constant[rows.owner] if constant.dim() == rows.values.dim() and len(constant) > 1 else constant
    return norms.flat(torch.where(rows.values == 0, 0.0, rows.values * values)).sum(1)
