"""Products of two tensors: coordinate by coordinate, and of matrices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from withstand.core import norms
from withstand.graph.primitives import Bilinear


@dataclass(frozen=True)
class Multiplication(Bilinear):
    """x · y, coordinate by coordinate; dimensions of size 1 are spread over those of the other."""

    @override
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y

    @override
    def norms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return _largest(x.abs(), y), _largest(y.abs(), x)


@dataclass(frozen=True)
class MatrixProduct(Bilinear):
    """x @ y of matrices (batch, …, m, k) and (batch, …, k, n); the dimensions between are spread as above."""

    @override
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ y

    @override
    def norms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return _largest(_spectral(x), y[..., :1, :1]), _largest(_spectral(y), x[..., :1, :1])


def _largest(sizes: Tensor, other: Tensor) -> Tensor:
    """The norm of the map d -> B(x, d), made of blocks of these norms.

    Where d is spread over several blocks their images stand beside one another, so squares add up.

    Args:
        sizes: Norms of the blocks, (batch, …).
        other: What has the shape of d's blocks, (batch, …).
    """
    spread = [dim for dim in range(1, other.dim()) if other.shape[dim] == 1 < sizes.shape[dim]]
    beside: Tensor = torch.linalg.vector_norm(sizes, dim=spread) if spread else sizes
    return norms.flat(beside).amax(1)


def _spectral(x: Tensor) -> Tensor:
    """A bound on each matrix's largest singular value, (…, 1, 1): the root of ‖xᵀ x‖, in Frobenius' norm.

    It is at most n^(1/4) too large, n the smaller side, where that of x itself is n^(1/2).
    """
    gram = x.mT @ x if x.shape[-1] <= x.shape[-2] else x @ x.mT
    square: Tensor = torch.linalg.matrix_norm(gram, keepdim=True)
    return norms.root(square)
