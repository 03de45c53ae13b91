"""Matrices of covariances: linear maps of their rows and of both sides, their order and their size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from withstand.core import norms
from withstand.operators import Shape
from withstand.types import ModelError

Map: TypeAlias = Callable[[Tensor], Tensor]
"""A linear map of batched tensors."""

_MOST_BYTES = 4 * 2**30  # of one batch of matrices


def on_rows(function: Map, matrix: Tensor, shape: Shape) -> Tensor:
    """A linear map of each row, taken for an example of that shape: (batch, rows, n) -> (batch, rows, m)."""
    rows = matrix.reshape(-1, *shape)
    return torch.unflatten(norms.flat(function(rows)), 0, matrix.shape[:2])


def on_rows_of_each(function: Map, matrix: Tensor, shape: Shape) -> Tensor:
    """The same of a map that is another one for each example, and takes (rows, batch, …)."""
    rows = torch.unflatten(matrix.transpose(0, 1), 2, shape)
    return function(rows).flatten(2).transpose(0, 1)


def both_sides(function: Map, matrix: Tensor, shape: Shape) -> Tensor:
    """A S Aᵀ of symmetric S, (batch, n, n) -> (batch, m, m)."""
    size = function(matrix.new_zeros(1, *shape)).numel()
    require_affordable(len(matrix), max(size, matrix.shape[1]), matrix)
    half = on_rows(function, matrix, shape)
    return on_rows(function, half.mT, shape)


def alike(matrices: Sequence[Tensor]) -> list[Tensor]:
    """With as many matrices each, to be joined."""
    length = max(len(matrix) for matrix in matrices)
    return [matrix.expand(length, -1, -1) for matrix in matrices]


def order_of_cat(shapes: Sequence[Shape], dim: int) -> Tensor:
    """Where each coordinate of a concatenation is in the flat examples, one after another."""
    start, places = 0, []
    for shape in shapes:
        size = torch.Size(shape).numel()
        places.append(torch.arange(start, start + size).reshape(1, *shape))
        start += size
    return torch.cat(places, dim).flatten()


def require_affordable(count: int, size: int, like: Tensor) -> None:
    """Refuses ``count`` matrices of a size and of a tensor's type that take more than 4 GiB.

    Raises:
        ModelError: they do.
    """
    num_bytes = count * size**2 * like.element_size()
    if num_bytes > _MOST_BYTES:
        raise ModelError(
            f"A covariance matrix of n = {size:,} coordinates, {count} at a time, takes "
            f"{num_bytes / 2**30:.1f} GiB, more than {_MOST_BYTES / 2**30:g}. Take Gaussian(mean, variance), "
            "which keeps variances alone, or fewer examples at a time."
        )
