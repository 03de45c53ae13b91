"""Transposed convolutions, as operators at their true input size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from withstand.operators.linear_operators import Convolution, Shape, Weighted


@dataclass(frozen=True, eq=False)
class TransposedConvolution(Weighted):
    """What ``torch.nn.functional.conv_transpose2d`` and its like do: the adjoint of a convolution.

    Args:
        weight: Tensor (in channels, out channels / groups, *kernel).
        stride: One a dimension.
        padding: One a dimension: so much is cut off on both sides.
        output_padding: One a dimension: so much longer is the output at its end.
        dilation: One a dimension.
        groups: Groups of channels.
    """

    stride: Sequence[int]
    padding: Sequence[int]
    output_padding: Sequence[int]
    dilation: Sequence[int]
    groups: int = 1

    @property
    @override
    def num_blocks(self) -> int:
        return self.groups

    @property
    def convolution(self) -> Convolution:
        """The one that it is the adjoint of, which may have further outputs at the end; these count as 0."""
        return Convolution(self.weight, self.stride, self.padding, self.dilation, self.groups)

    def output_shape(self, input_shape: Shape) -> Shape:
        """The shape (channels, *sizes) of what it makes of one example."""
        meta = replace(self, weight=self.weight.to("meta"))
        return tuple(
            meta.apply(torch.empty(1, *input_shape, dtype=self.weight.dtype, device="meta")).shape[1:]
        )

    @override
    def apply(self, x: Tensor) -> Tensor:
        transpose = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[
            self.weight.dim() - 2
        ]
        settings = [*self.stride], [*self.padding], [*self.output_padding], self.groups, [*self.dilation]
        return transpose(x, self.weight, None, *settings)

    @override
    def transposed(self, y: Tensor, input_shape: Shape) -> Tensor:
        convolved = self.convolution.apply(y)
        for dim, size in enumerate(input_shape[1:], 2):
            convolved = convolved.narrow(dim, 0, size)
        return convolved
