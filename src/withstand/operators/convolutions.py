"""Gram matrices of convolutions: the exact ones, and those of a circular convolution above them.

Both take a weight (groups, outputs, inputs, *kernel), channels counted in each group, and one
``Axis`` a dimension. Output p reads input ``stride p + dilation k - padding`` at tap k, or zero
where there is no such input.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product

import torch
from torch import Tensor

from withstand.operators.clipping import as_wide
from withstand.operators.eigenvalues import Gram
from withstand.operators.linear_operators import Convolution, Shape

_MOST_NUMBERS = 2**24  # of one chunk of frequencies: 256 MiB


@dataclass(frozen=True)
class Axis:
    """One dimension of a convolution.

    Args:
        size: Length of the input.
        taps: Length of the kernel.
        stride: Inputs from one output to the next.
        padding: Zeros on either side.
        dilation: Inputs from one tap to the next.
    """

    size: int
    taps: int
    stride: int
    padding: int
    dilation: int

    @property
    def outputs(self) -> int:
        """Length of the output."""
        reach = self.dilation * (self.taps - 1) + 1
        return (self.size + 2 * self.padding - reach) // self.stride + 1

    @property
    def grid(self) -> int:
        """Length, in strides, of a circle on which nothing meets that does not meet on the line.

        Outputs read from -padding to below size + padding, so on a circle of size + padding inputs
        or more none of them reads an input from the other side. Those past the circle's end read
        nothing but zeros, so the matrix, without them, is a part of the circular one. Along an axis
        with one tap a frequency only turns the phase, so there the circle may as well have length 1.
        """
        return 1 if self.taps == 1 else -(-(self.size + self.padding) // self.stride)

    def meetings(self, first: int, second: int, *, of_inputs: bool) -> tuple[Tensor, Tensor]:
        """Where two taps meet: pairs of inputs that one output reads, or of outputs that read one input.

        Returns:
            Positions at the first tap, and those at the second.
        """
        outputs = torch.arange(self.outputs)
        read = self.stride * outputs + self.dilation * first - self.padding
        shift = self.dilation * (second - first)
        is_inside = (read >= 0) & (read < self.size)
        if of_inputs:
            others = read + shift
            is_inside &= (others >= 0) & (others < self.size)
            return read[is_inside], others[is_inside]
        others = outputs - shift // self.stride
        is_inside &= (others >= 0) & (others < self.outputs)
        if shift % self.stride:
            is_inside = torch.zeros_like(is_inside)
        return outputs[is_inside], others[is_inside]


def axes_of(operator: Convolution, input_shape: Shape) -> list[Axis]:
    """The dimensions of a convolution.

    Args:
        operator: The convolution.
        input_shape: Shape (channels, *sizes) of one example.
    """
    parts = (input_shape[1:], operator.weight.shape[2:], operator.stride, operator.padding, operator.dilation)
    return [Axis(*numbers) for numbers in zip(*parts, strict=True)]


@dataclass(frozen=True)
class Layout:
    """How the Gram matrix of one side of a convolution splits into blocks.

    Positions along the first axis meet only near ones, so what is not 0 lies near the diagonal.

    Args:
        axes: One a dimension.
        channels: Channels of that side, in each group.
        of_inputs: The side of the inputs: AᵀA rather than AAᵀ.
    """

    axes: Sequence[Axis]
    channels: int
    of_inputs: bool

    @property
    def sizes(self) -> list[int]:
        """Positions along each axis."""
        return [axis.size if self.of_inputs else axis.outputs for axis in self.axes]

    @property
    def width(self) -> int:
        """Positions of a block: as many lines, along the first axis, as a meeting can lie apart."""
        first = self.axes[0]
        reach = first.dilation * (first.taps - 1) // (1 if self.of_inputs else first.stride)
        return min(max(reach, 1), self.sizes[0]) * math.prod(self.sizes[1:])

    @property
    def blocks(self) -> int:
        """Blocks on the diagonal; the last is filled up with zeros."""
        return -(-math.prod(self.sizes) // self.width)

    @property
    def numbers(self) -> int:
        """Numbers in the blocks on the diagonal; there are no more below."""
        return self.blocks * (self.width * self.channels) ** 2

    @property
    def work(self) -> float:
        """Multiplications and additions of a Cholesky factorisation."""
        return (7 * self.blocks - 6) / 3 * (self.width * self.channels) ** 3


def gram(weight: Tensor, layout: Layout) -> Gram:
    """AᵀA or AAᵀ of each group, from the kernel: where two taps meet it has their product.

    Args:
        weight: Tensor (groups, outputs, inputs, *kernel).
        layout: How the result is laid out.
    """
    weight = weight.transpose(1, 2) if layout.of_inputs else weight
    groups, channels = weight.shape[:2]
    # One block more than there are below, so that no case needs a check.
    shape = (groups, layout.blocks, layout.width, channels, layout.width, channels)
    result = weight.new_zeros(2, *shape)
    kernels = weight.flatten(3)
    met = [_all_meetings(axis, layout.of_inputs) for axis in layout.axes]
    taps = enumerate(product(*[range(axis.taps) for axis in layout.axes]))
    for (first, one), (second, other) in combinations_with_replacement(taps, 2):
        pairs = [meetings[pair] for meetings, pair in zip(met, zip(one, other, strict=True), strict=True)]
        rows, columns = (_flat(places, layout.sizes) for places in zip(*pairs, strict=True))
        if len(rows):
            block = kernels[..., first] @ kernels[..., second].mT
            _add(result, rows, columns, block)
            if first != second:
                _add(result, columns, rows, block.mT)
    diagonal, below = result.flatten(5).flatten(3, 4)
    return Gram(diagonal, below[:, :-1])


def _add(result: Tensor, rows: Tensor, columns: Tensor, block: Tensor) -> None:
    """Adds a block of channels at pairs of places; those above the diagonal's blocks are left out."""
    width = result.shape[3]
    below = rows // width - columns // width
    rows, columns, below = (places[below >= 0].to(result.device) for places in (rows, columns, below))
    # No pair of places comes twice in one meeting, so no sum is overwritten.
    result[below, :, columns // width, rows % width, :, columns % width, :] += block


def _all_meetings(axis: Axis, of_inputs: bool) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
    taps = range(axis.taps)
    return {(one, other): axis.meetings(one, other, of_inputs=of_inputs) for one in taps for other in taps}


def _flat(positions: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Flat places of all combinations of positions, one tensor of them a dimension."""
    flat = positions[0]
    for more, size in zip(positions[1:], sizes[1:], strict=True):
        flat = (flat[:, None] * size + more).flatten()
    return flat


def polyphase(axes: Sequence[Axis]) -> tuple[Tensor, Tensor]:
    """Where each tap reads on the circle: so many strides on, in the channel of that phase.

    Args:
        axes: One a dimension.

    Returns:
        Integer tensors (taps, axes).
    """
    offsets = [axis.dilation * torch.arange(axis.taps) - axis.padding for axis in axes]
    taps = torch.cartesian_prod(*offsets).reshape(-1, len(axes))
    strides = torch.tensor([axis.stride for axis in axes])
    return taps // strides, taps % strides


def circular_grams(weight: Tensor, axes: Sequence[Axis]) -> Iterator[Gram]:
    """The Gram matrices of a circular convolution of which the padded one is a part, by frequency.

    Inputs a stride apart are taken as one channel of their own (the polyphase form), so that what
    is left steps by 1 and splits into one small matrix a frequency f: the sum over taps k of
    weight_k exp(2πi f b_k / grid), in the column of phase a_k, where ``dilation k - padding`` is
    ``stride b_k + a_k``. Half of the frequencies do, as the others are the conjugates.

    Args:
        weight: Tensor (groups, outputs, inputs, *kernel).
        axes: One a dimension.

    Yields:
        Complex matrices, one for each frequency and group.
    """
    kernels = weight.flatten(3).to(torch.complex128)
    shifts, phases = polyphase(axes)
    columns = [(phases == phase).all(dim=1).nonzero()[:, 0] for phase in torch.unique(phases, dim=0)]
    groups, outputs, inputs = weight.shape[:3]
    inputs *= len(columns)
    numbers = groups * (outputs * inputs + 2 * min(outputs, inputs) ** 2)
    for waves in torch.split(_waves(shifts, axes), max(1, _MOST_NUMBERS // numbers)):
        turns = torch.polar(torch.ones_like(waves), waves).to(weight.device)
        parts = [kernels[..., taps] @ turns[:, taps].mT for taps in columns]
        matrices = torch.cat(parts, dim=2).permute(3, 0, 1, 2).flatten(0, 1)
        wide = as_wide(matrices)
        yield Gram.full(wide @ wide.mH)


def circular_work(weight: Tensor, axes: Sequence[Axis]) -> float:
    """Multiplications and additions of ``circular_grams`` and of a Cholesky factorisation of each, about.

    Args:
        weight: Tensor (groups, outputs, inputs, *kernel).
        axes: One a dimension.
    """
    groups, outputs, inputs = weight.shape[:3]
    inputs *= math.prod(min(axis.stride, axis.taps) for axis in axes)
    small, large = sorted((outputs, inputs))
    return math.prod(axis.grid for axis in axes) * groups * small**2 * (2 * large + small)


def _waves(shifts: Tensor, axes: Sequence[Axis]) -> Tensor:
    """The angle of each tap at each frequency: tensor (frequencies, taps), float64."""
    grids = [axis.grid for axis in axes]
    lengths = [*grids[:-1], grids[-1] // 2 + 1]
    frequencies = torch.cartesian_prod(*[torch.arange(n) for n in lengths]).reshape(-1, len(axes))
    circle = torch.tensor(grids)
    share = (frequencies[:, None] * shifts % circle).double() / circle  # exact whole turns are left out
    return 2 * math.pi * share.sum(dim=-1)
