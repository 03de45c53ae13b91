"""Linear maps between the tensors of one example, as operators at their true input size.

The matrix of a convolution with padding and stride has other singular values than its reshaped
kernel; every norm here is that of the matrix, which is never written out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn import grad
from typing_extensions import override

Shape: TypeAlias = tuple[int, ...]
"""The shape of one example, without the batch."""


class LinearOperator(ABC):
    """The interface of a linear map ``x -> A x``, batched over the first dimension."""

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """A x.

        Args:
            x: Tensor (batch, …), in the operator's precision.
        """

    def affine(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """A x + b, in one pass where the operator knows how.

        Args:
            x: Tensor (batch, …), in the operator's precision.
            bias: b, which broadcasts to the output (batch, …); none where None.
        """
        image = self.apply(x)
        return image if bias is None else image + bias

    @abstractmethod
    def entrywise(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The operator with ``function`` taken of each entry of the matrix.

        Args:
            function: Elementwise, 0 at 0; such as ``torch.abs`` or ``torch.square``.
        """

    @property
    @abstractmethod
    def entries(self) -> Tensor:
        """Any tensor of the operator; it tells device and precision."""

    @property
    def num_blocks(self) -> int:
        """How many operators it is, side by side: on equal parts of the dimension after the batch."""
        return 1

    def norm(self, input_shape: Shape) -> Tensor | None:
        """The largest singular value where a closed form gives it, else None.

        Args:
            input_shape: Shape of one example.

        Returns:
            Scalar tensor with gradient, or None.
        """
        return None

    def row_norms(self, input_shape: Shape) -> Tensor:
        """The l2 norm of each row of the matrix, so also of those that padding cuts short.

        Args:
            input_shape: Shape of one example.

        Returns:
            Tensor that broadcasts to (batch, output shape).
        """
        squares = self.entrywise(torch.square).apply(self.entries.new_ones((1, *input_shape)))
        return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()

    def adjoint(self, y: Tensor, input_shape: Shape) -> Tensor:
        """Aᵀ y, without gradient.

        Args:
            y: Tensor (batch, output shape).
            input_shape: Shape of one example.

        Returns:
            Tensor (batch, *input_shape).
        """
        with torch.no_grad():
            return self.transposed(y.detach(), input_shape)

    def transposed(self, y: Tensor, input_shape: Shape) -> Tensor:
        """Aᵀ y, with gradient.

        Args:
            y: Tensor (batch, output shape).
            input_shape: Shape of one example.

        Returns:
            Tensor (batch, *input_shape).
        """
        return transposed(self.apply, y, input_shape)


def transposed(function: Callable[[Tensor], Tensor], y: Tensor, input_shape: Shape) -> Tensor:
    """Aᵀ y of what makes A x + b of each x, by automatic differentiation; with gradient.

    Args:
        function: Of a tensor (batch, *input_shape), whatever the batch.
        y: Tensor (batch, output shape).
        input_shape: Shape of one example.
    """
    has_gradient = torch.is_grad_enabled()
    # Inference mode would keep autograd from working even where gradients are enabled.
    with torch.inference_mode(False), torch.enable_grad():
        x = y.new_zeros((y.shape[0], *input_shape), requires_grad=True)
        (result,) = torch.autograd.grad(function(x), x, y, create_graph=has_gradient)
    return result


@dataclass(frozen=True, eq=False)
class Weighted(LinearOperator):
    """An operator whose entries are those of one tensor."""

    weight: Tensor

    @override
    def entrywise(self, function: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, weight=function(self.weight))

    @property
    @override
    def entries(self) -> Tensor:
        return self.weight


@dataclass(frozen=True, eq=False)
class Dense(Weighted):
    """A matrix on the last dimension, as ``torch.nn.functional.linear``.

    Args:
        weight: Tensor (out, in).
    """

    @override
    def apply(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)

    @override
    def affine(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if bias is not None and bias.dim() > 1:
            return super().affine(x, bias)
        return F.linear(x, self.weight, bias)

    @override
    def row_norms(self, input_shape: Shape) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(self.weight, dim=1)
        return norms

    @override
    def transposed(self, y: Tensor, input_shape: Shape) -> Tensor:
        return F.linear(y, self.weight.T)


@dataclass(frozen=True, eq=False)
class Convolution(Weighted):
    """A convolution with zero padding, over one or more dimensions.

    Args:
        weight: Tensor (out channels, in channels / groups, *kernel).
        stride: One a dimension.
        padding: One a dimension, on both sides.
        dilation: One a dimension.
        groups: Groups of channels.
    """

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int = 1

    @property
    @override
    def num_blocks(self) -> int:
        return self.groups

    @override
    def apply(self, x: Tensor) -> Tensor:
        return self._convolved(x, None)

    @override
    def affine(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if bias is not None and bias.shape == (len(self.weight), *[1] * len(self.stride)):
            return self._convolved(x, bias.flatten())
        return super().affine(x, bias)

    def _convolved(self, x: Tensor, bias: Tensor | None) -> Tensor:
        # Not torch.convolution: the functions choose the fastest kernel for each device.
        convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[self.weight.dim() - 2]
        return convolve(x, self.weight, bias, [*self.stride], [*self.padding], [*self.dilation], self.groups)

    @override
    def transposed(self, y: Tensor, input_shape: Shape) -> Tensor:
        # Not a transposed convolution, which works on one example after another in float64.
        gradients: dict[int, Callable[..., Tensor]]
        gradients = {1: grad.conv1d_input, 2: grad.conv2d_input, 3: grad.conv3d_input}
        options = [*self.stride], [*self.padding], [*self.dilation], self.groups
        return gradients[self.weight.dim() - 2]((len(y), *input_shape), self.weight, y, *options)


@dataclass(frozen=True, eq=False)
class Diagonal(LinearOperator):
    """A multiplication, coordinate by coordinate.

    Args:
        scale: Tensor that broadcasts to (batch, …); (1, channels, 1, 1) for one factor a channel.
    """

    scale: Tensor

    @override
    def apply(self, x: Tensor) -> Tensor:
        return x * self.scale

    @override
    def entrywise(self, function: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, scale=function(self.scale))

    @property
    @override
    def entries(self) -> Tensor:
        return self.scale

    @override
    def norm(self, input_shape: Shape) -> Tensor:
        return self.scale.abs().max()

    @override
    def row_norms(self, input_shape: Shape) -> Tensor:
        return self.scale.abs()


@dataclass(frozen=True, eq=False)
class Separable(LinearOperator):
    """A matrix on each of some dimensions: average pooling with any of its options, and the mean.

    Args:
        dims: Dimensions of the batched tensor, from 1 on.
        factors: One matrix (out, in) for each of them.
    """

    dims: Sequence[int]
    factors: Sequence[Tensor]

    @override
    def apply(self, x: Tensor) -> Tensor:
        for dim, factor in zip(self.dims, self.factors, strict=True):
            x = torch.tensordot(x, factor, dims=([dim], [1])).movedim(-1, dim)
        return x

    @override
    def entrywise(self, function: Callable[[Tensor], Tensor]) -> Self:
        # Entries of a Kronecker product are products, which abs and square pass through.
        return replace(self, factors=[function(factor) for factor in self.factors])

    @property
    @override
    def entries(self) -> Tensor:
        return self.factors[0]

    @override
    def norm(self, input_shape: Shape) -> Tensor:
        norms = [torch.linalg.matrix_norm(factor, ord=2) for factor in self.factors]
        return torch.stack(norms).prod()


@dataclass(frozen=True, eq=False)
class Matrices(Weighted):
    """Several matrices on the last dimension: x @ Aᵀ, for x of (batch, …, m, in), which may broadcast.

    Args:
        weight: Tensor (…, out, in), of no more dimensions than an example.
    """

    @override
    def apply(self, x: Tensor) -> Tensor:
        return x @ self.weight.mT

    @override
    def norm(self, input_shape: Shape) -> Tensor:
        # Where one row meets several matrices, these are as one on top of the other.
        lead = input_shape[len(input_shape) - self.weight.dim() : -2]
        apart = [dim for dim, size in enumerate(lead) if size > 1]
        met = [dim for dim, size in enumerate(lead) if size == 1]
        stacked = self.weight.permute(*apart, *met, -2, -1).flatten(len(apart), len(lead))
        norms: Tensor = torch.linalg.matrix_norm(stacked, ord=2)
        return norms.max()


@dataclass(frozen=True, eq=False)
class Selection(Weighted):
    """Coordinates of each example at places of a new one, each as often as it is named, times a factor.

    Args:
        weight: The factor, a scalar tensor.
        index: Integer tensor (output shape): places in the flattened example.
    """

    index: Tensor

    @override
    def apply(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, self.index] * self.weight

    @override
    def norm(self, input_shape: Shape) -> Tensor:
        return self.weight.abs() * torch.bincount(self.index.flatten()).max().to(self.weight).sqrt()

    @override
    def row_norms(self, input_shape: Shape) -> Tensor:
        return self.weight.abs()
