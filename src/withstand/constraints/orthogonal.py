"""Weights computed so that they are orthogonal: matrices, and kernels as the convolutions that they are.

A matrix comes from free parameters by QR. A kernel of several taps is made of such matrices as in BCOP (Li
et al., NeurIPS 2019): one matrix, and for each further tap along an axis a projector P, by which the part P x
of the channels stays where it is and (I - P) x moves by one place. With strides the places are the blocks of
input pixels that one stride covers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


def orthonormal(matrices: Tensor) -> Tensor:
    """The Gram-Schmidt process on rows, or on columns where these are fewer.

    With V of full rank and V Vᵀ = L Lᵀ (Cholesky) it is L⁻¹ V (Hu et al., ICLR 2024), but computed by QR,
    which keeps its digits where V is badly conditioned.

    Args:
        matrices: (…, rows, columns).

    Returns:
        Of the same shape, with all singular values 1.
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthonormal(matrices.mT).mT
    q, r = torch.linalg.qr(matrices.mT)
    is_negative = r.detach().diagonal(dim1=-2, dim2=-1) < 0
    return torch.where(is_negative[..., None, :], -q, q).mT


def nearest_orthonormal(matrices: Tensor) -> Tensor:
    """The nearest matrices, (…, rows, columns), with all singular values 1: polar factors."""
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    result: Tensor = left @ right
    return result


def with_moves(kernel: Tensor, directions: Tensor, axes: Sequence[int]) -> Tensor:
    """A kernel after convolutions of two taps, each orthogonal: P and I - P.

    Args:
        kernel: (taps…, groups, outputs, inputs); taps along as many dimensions as the space has.
        directions: (number of them, groups, rank, inputs); P projects onto what these span.
        axes: Along which dimension each goes, one a projector.

    Returns:
        The kernel of the composition, with one tap more along its axis for each of them.
    """
    bases = orthonormal(directions)
    projectors = bases.mT @ bases
    for number, axis in enumerate(axes):
        stays = kernel @ projectors[number]
        moves = kernel - stays
        if number % 2:  # so that equal projectors undo each other, up to a shift to the middle
            stays, moves = moves, stays
        blank = torch.zeros_like(kernel.narrow(axis, 0, 1))
        kernel = torch.cat([stays, blank], axis) + torch.cat([blank, moves], axis)
    return kernel


class Orthogonal(nn.Module):
    """A parametrisation for ``torch.nn.utils.parametrize``: a matrix, or a kernel, that is orthogonal.

    A convolution on a circle, as the matrix that it is, has orthonormal rows, or where it has more outputs
    than it reads pixels orthonormal columns for these. With zero padding its norm is at most 1, and so is
    that of a transposed convolution, its adjoint. This holds at any kernel size and stride; but of a kernel
    with a stride, a dilation and more channels out than in no more is known than a norm of at most 1.

    Whatever has one tap a stride starts as the nearest orthogonal one to the former weight; kernels of more
    taps start at random.

    Args:
        shape: Of the weight: (outputs, inputs of a group, taps…); all but the first are inputs where there
            are no strides.
        groups: Parts of equal size along the first dimension, each orthogonal by itself: groups of a
            convolution, or matrices on top of each other.
        stride: Along each dimension of taps; none for a matrix.
        dilation: Along each dimension of taps; none for a matrix.
    """

    is_function = True  # of its parameters alone (``core.modes.weights_computed_once``)

    def __init__(
        self, shape: Sequence[int], groups: int = 1, stride: Sequence[int] = (), dilation: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.shape, self.groups = tuple(shape), groups
        inputs, self.taps = shape[1 : len(shape) - len(stride)], shape[len(shape) - len(stride) :]
        self.outputs, self.inputs = shape[0] // groups, math.prod(inputs)
        # Strides do not part a dilated kernel into blocks; but what is orthogonal at stride 1 gives a part of
        # its outputs at any other, and does not expand.
        steps = [step if spacing == 1 else 1 for step, spacing in zip(stride, dilation, strict=True)]
        self.block = [min(size, step) for size, step in zip(self.taps, steps, strict=True)]
        self.inputs_of_block = self.inputs * math.prod(self.block)
        self.block_axes = list(
            _axes([size // step - 1 for size, step in zip(self.taps, self.block, strict=True)])
        )
        # Where a stride does not divide the kernel, what is left are places of single pixels.
        self.pixel_axes = list(_axes([size % step for size, step in zip(self.taps, self.block, strict=True)]))

    @override
    def forward(self, matrix: Tensor, *directions: Tensor) -> Tensor:
        by_kind = iter(directions)
        kernel = orthonormal(matrix)[(None,) * len(self.taps)]
        is_tall = self.outputs > self.inputs_of_block
        if self.block_axes:
            kernel = with_moves(kernel.mT if is_tall else kernel, next(by_kind), self.block_axes)
            kernel = kernel.mT if is_tall else kernel
        kernel = self._in_pixels(kernel)
        if self.pixel_axes:
            kernel = with_moves(kernel, next(by_kind), self.pixel_axes)
        rank = len(self.taps)
        kernel = kernel.permute(*range(rank, rank + 3), *range(rank))
        return kernel.reshape(self.shape)

    def right_inverse(self, weight: Tensor) -> list[Tensor]:
        """Parameters to start from, of a weight (outputs, inputs of a group, taps…)."""
        size = max(self.outputs, self.inputs_of_block)
        matrix = weight.reshape(self.groups, self.outputs, -1)
        if self.block_axes or self.pixel_axes:
            matrix = torch.randn_like(matrix[..., :1].expand(-1, -1, self.inputs_of_block))
        kinds = (self.block_axes, size), (self.pixel_axes, self.inputs)
        directions = [
            orthonormal(weight.new_empty(len(axes), self.groups, width // 2, width).normal_())
            for axes, width in kinds
            if axes
        ]
        return [nearest_orthonormal(matrix), *directions]

    def _in_pixels(self, kernel: Tensor) -> Tensor:
        """(blocks…, groups, outputs, inputs of a block) as (taps…, groups, outputs, inputs)."""
        rank, blocks = len(self.taps), kernel.shape[: len(self.taps)]
        apart = kernel.reshape(*blocks, self.groups, self.outputs, self.inputs, *self.block)
        order = chain.from_iterable((axis, rank + 3 + axis) for axis in range(rank))
        taps = [count * size for count, size in zip(blocks, self.block, strict=True)]
        return apart.permute(*order, rank, rank + 1, rank + 2).reshape(
            *taps, self.groups, self.outputs, self.inputs
        )


class NormalizedRows(nn.Module):
    """A parametrisation: each row of a weight at length 1 (Singla et al., ICLR 2022).

    As that of the last layer it makes each logit 1-Lipschitz in what it is given, and leaves the angles
    between the classes free, which an orthogonal one holds at 90 degrees.
    """

    is_function = True

    @override
    def forward(self, weight: Tensor) -> Tensor:
        return F.normalize(weight.flatten(1)).view(weight.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The weight itself."""
        return weight


def _axes(counts: Sequence[int]) -> Iterator[int]:
    """Each axis as often as asked for, in turn."""
    for turn in range(max(counts, default=0)):
        yield from (axis for axis, count in enumerate(counts) if count > turn)
