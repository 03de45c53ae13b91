"""Values of an ONNX file for a batch of any size, computed for each example as for a batch of one.

Files often hold for a batch of one alone: constants of Reshape say so, and some have no batch at all. So a
value is known by its shape for one example, ``shape``, and its tensor has the batch in the place of a first
size of 1, or in front. What an operation does along the first size it does within an example, never across
the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

Shape: TypeAlias = tuple[int, ...]


class Examples(NamedTuple):
    """A value that depends on the input.

    Attributes:
        tensor: (batch, …): the shape follows, without a first size of 1.
        shape: Of one example, as the file has it with a batch of one.
    """

    tensor: Tensor
    shape: Shape

    @classmethod
    def of(cls, tensor: Tensor, shape: Sequence[int]) -> Examples:
        """From a tensor (batch, …) with the numbers of each example in order."""
        return cls(fitted(tensor, stored(shape)), tuple(shape))

    @property
    def rank(self) -> int:
        """Number of dimensions, as the file counts them."""
        return len(self.shape)

    def dim(self, axis: int) -> int:
        """A dimension that may be counted from the end, from 0 on."""
        return axis % max(self.rank, 1)

    def opened(self, *axes: int) -> tuple[Tensor, int]:
        """A tensor, and what to add to axes of the file to have its own.

        Args:
            *axes: Those that are worked along, from 0.
        """
        if self.shape[:1] == (1,) and 0 not in axes:
            return self.tensor, 0
        return fitted(self.tensor, self.shape), 1

    def along(self, axis: int, function: Callable[[Tensor, int], Tensor]) -> Examples:
        """The image of a function of a tensor and one of its dimensions.

        Args:
            axis: As the file has it, also from the end.
            function: Keeps the other dimensions.
        """
        tensor, shift = self.opened(self.dim(axis))
        return closed(function(tensor, self.dim(axis) + shift), shift)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Examples:
        """The image of a function of each number."""
        return Examples(function(self.tensor), self.shape)

    def layered(self, layer: Callable[[Tensor], Tensor]) -> Examples:
        """The image of a layer of torch on (batch, channels, …), where the file's first size is the batch."""
        count = self.shape[0]
        if count == 1:
            return closed(layer(self.tensor), 0)
        result = layer(self.tensor.flatten(0, 1))
        return closed(result.reshape(self.tensor.shape[0], count, *result.shape[1:]), 1)


def stored(shape: Sequence[int]) -> Shape:
    """The shape of one example in a tensor behind the batch."""
    return tuple(shape[1:] if tuple(shape[:1]) == (1,) else shape)


def fitted(tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    """A tensor (batch, …) as (batch, *sizes); the same where it is so already."""
    return tensor if tensor.shape[1:] == tuple(sizes) else tensor.reshape(tensor.shape[0], *sizes)


def closed(tensor: Tensor, shift: int) -> Examples:
    """A value from a tensor that was ``opened``."""
    sizes = tuple(tensor.shape[1:])
    return Examples.of(tensor, sizes if shift else (1, *sizes))


Operand: TypeAlias = Examples | Tensor
"""What an operation of several values takes: some for each example, or a constant."""


def aligned(values: Sequence[Operand], rank: int = 0) -> tuple[list[Tensor], int]:
    """Tensors that are broadcast as the file's values are, and what to add to axes of the file.

    Args:
        values: At least one is of examples.
        rank: That they have at least.
    """
    rank = max(rank, *(len(value.shape) for value in values))
    shapes = [(1,) * (rank - len(value.shape)) + tuple(value.shape) for value in values]
    shift = 0 if rank and all(shape[0] == 1 for shape in shapes) else 1
    tensors = [
        fitted(value.tensor, shape[1 - shift :]) if isinstance(value, Examples) else value
        for value, shape in zip(values, shapes, strict=True)
    ]
    return tensors, shift


def together(function: Callable[..., Tensor], *values: Operand) -> Examples:
    """The image of a function that broadcasts its arguments.

    Args:
        function: Of as many tensors.
        *values: Its arguments; at least one is of examples.
    """
    tensors, shift = aligned(values)
    return closed(function(*tensors), shift)


def product(left: Operand, right: Operand) -> Examples:
    """The matrix product, as NumPy broadcasts it."""
    ranks = len(left.shape), len(right.shape)
    left, right = _as_matrix(left, 0), _as_matrix(right, 1)
    rank = max(len(left.shape), len(right.shape))
    tensors, shift = aligned([left, right])
    if shift == 0 and rank == 2:  # the batch is no dimension of a matrix
        tensors = [
            fitted(value.tensor, value.shape) if isinstance(value, Examples) else value
            for value in (left, right)
        ]
        shift = 1
    result = closed(torch.matmul(*tensors), shift)
    shape = list(result.shape)
    if ranks[1] == 1:
        del shape[-1]
    if ranks[0] == 1:
        del shape[-1 if ranks[1] == 1 else -2]
    return Examples.of(result.tensor, shape)


def _as_matrix(value: Operand, place: int) -> Operand:
    """A vector as a matrix of one row or column."""
    if len(value.shape) != 1:
        return value
    shape = (1, *value.shape) if place == 0 else (*value.shape, 1)
    return Examples.of(value.tensor, shape) if isinstance(value, Examples) else value.reshape(shape)


def numbers(values: Any) -> list[int]:
    """Whole numbers of an array or list."""
    return [int(value) for value in values]


def count(shape: Sequence[int]) -> int:
    """How many numbers a value of a shape has."""
    return math.prod(shape)
