"""Coefficients that are 0 beyond a window of a map, as those of a convolution's outputs are.

A row that starts at one place of a map sees, a few convolutions earlier, still but a few places around it. So
only these are carried, until a node comes that knows nothing of windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from withstand.domains.linear.nodes import Affine, Bent, Lines, Node, Rows, Shifted, Sum, along, along_any
from withstand.operators import Convolution, Diagonal, Shape


class Windows(NamedTuple):
    """Rows of coefficients of maps (channels, *sizes), of one window each.

    Attributes:
        values: Tensor (rows, channels, *window), 0 where a window reaches out of its map.
        owner: Integers (rows,): of which example each row is.
        start: Integers (rows, dims): the first place of each window; it may lie before the map.
        sizes: Of the maps.
    """

    values: Tensor
    owner: Tensor
    start: Tensor
    sizes: Shape

    @classmethod
    def units(cls, owner: Tensor, place: Tensor, shape: Shape, like: Tensor) -> Self:
        """One coefficient of 1 a row.

        Args:
            owner: Integers (rows,).
            place: Integers (rows,): places in the flattened map.
            shape: Of the map, its channels first.
            like: Of whose precision and device they are.
        """
        channels, *sizes = shape
        channel, *start = torch.unravel_index(place, shape)
        values = torch.eye(channels, dtype=like.dtype, device=like.device)[channel]
        return cls(values.reshape(-1, channels, *[1] * len(sizes)), owner, torch.stack(start, 1), tuple(sizes))

    @property
    def extent(self) -> Shape:
        """The size of a window."""
        return tuple(self.values.shape[2:])

    @property
    def is_worthwhile(self) -> bool:
        """Whether a window is smaller than its map."""
        return math.prod(self.extent) < math.prod(self.sizes)

    def chosen(self, of: Tensor) -> Tensor:
        """What each row is to know of its example in its window, 0 beyond the map.

        Args:
            of: Broadcasts to (batch, channels, *sizes).

        Returns:
            Tensor (rows or 1, …) that broadcasts to the values.
        """
        of = of.reshape(*[1] * (self.values.dim() - of.dim()), *of.shape)
        if math.prod(of.shape[2:]) == 1:
            return of if len(of) == 1 else of[self.owner]
        of = of.expand(-1, -1, *self.sizes)
        before, after = self._beyond
        view = F.pad(of, [side for sides in zip(before[::-1], after[::-1], strict=True) for side in sides])
        for dim, size in enumerate(self.extent):
            view = view.unfold(2 + dim, size, 1)  # (batch, channels, *places, *window)
        view = view.movedim(1, 1 + len(self.sizes))
        owner = self.owner if len(of) > 1 else torch.zeros_like(self.owner)
        places = self.start + torch.tensor(before, device=self.start.device)
        return view[(owner, *places.unbind(1))]

    def whole(self) -> Rows:
        """The same as coefficients of whole maps."""
        before, after = self._beyond
        padded = [size + sum(sides) for size, sides in zip(self.sizes, zip(before, after, strict=True), strict=True)]
        rows, channels = self.values.shape[:2]
        whole = self.values.new_zeros(rows, channels, *padded)
        view = whole
        for dim, size in enumerate(self.extent):
            view = view.unfold(2 + dim, size, 1)
        places = self.start + torch.tensor(before, device=self.start.device)
        every = torch.arange(rows, device=self.start.device)
        view.movedim(1, 1 + len(self.sizes))[(every, *places.unbind(1))] = self.values
        for dim, (margin, size) in enumerate(zip(before, self.sizes, strict=True)):
            whole = whole.narrow(2 + dim, margin, size)
        return Rows(whole.contiguous(), self.owner)

    def plus(self, other: Windows) -> Windows | None:
        """The sum, where the windows lie to each other the same way in all rows; else None."""
        apart = other.start - self.start
        if bool((apart != apart[:1]).any()):
            return None
        first = torch.minimum(apart[0], torch.zeros_like(apart[0]))
        ends = torch.maximum(
            torch.tensor(self.extent, device=apart.device),
            apart[0] + torch.tensor(other.extent, device=apart.device),
        )
        parts = []
        for part, offset in ((self, -first), (other, apart[0] - first)):
            sides = []
            for at, size, length in zip(offset.tolist(), part.extent, (ends - first).tolist(), strict=True):
                sides = [at, length - size - at, *sides]
            parts.append(F.pad(part.values, sides))
        return self._replace(values=parts[0] + parts[1], start=self.start + first)

    @property
    def _beyond(self) -> tuple[list[int], list[int]]:
        """How far windows reach out of the map, before it and after it, one number a dimension each."""
        last = self.start + torch.tensor(self.extent, device=self.start.device)
        sizes = torch.tensor(self.sizes, device=self.start.device)
        before, after = (-self.start).amax(0).clamp_min(0), (last - sizes).amax(0).clamp_min(0)
        return before.tolist(), after.tolist()


def pull_back(node: Node, rows: Windows) -> tuple[Sequence[Windows], Tensor | float] | None:
    """As of a node; None where it knows nothing of windows.

    Args:
        node: Which the rows are functions of.
        rows: The functions.
    """
    match node:
        case Affine(operator=Convolution() as operator):
            return [_through(operator, rows, node.parents[0].shape)], _constant(rows, node.bias)
        case Affine(operator=Diagonal(scale=scale)):
            return [_times(rows, scale)], _constant(rows, node.bias)
        case Shifted():
            return [rows], along_any(rows.values, rows.chosen(node.constant))
        case Sum():
            return [rows if factor == 1 else _times(rows, factor) for factor in node.factors], 0.0
        case Bent():
            lines = Lines(*(line if line is None else rows.chosen(line) for line in node.own_lines))
            back, constant = lines.applied(rows.values)
            return [rows._replace(values=back)], constant
    return None


def _through(operator: Convolution, rows: Windows, shape: Shape) -> Windows:
    """What the outputs of a convolution are of its inputs."""
    parts = rows.extent, operator.weight.shape[2:], operator.stride, operator.dilation
    extent = [
        (size - 1) * step + (taps - 1) * spread + 1 for size, taps, step, spread in zip(*parts, strict=True)
    ]
    plain = replace(operator, padding=[0] * len(extent))
    start = rows.start.new_tensor(list(operator.padding)), rows.start.new_tensor(list(operator.stride))
    reached = Windows(
        plain.transposed(rows.values, (shape[0], *extent)), rows.owner, rows.start * start[1] - start[0], shape[1:]
    )
    for dim, (size, length) in enumerate(zip(reached.sizes, extent, strict=True)):
        place = reached.start[:, dim, None] + torch.arange(length, device=rows.start.device)
        is_inside = (place >= 0) & (place < size)
        if not bool(is_inside.all()):
            spread = [1] * len(extent)
            spread[dim] = length
            mask = is_inside.reshape(-1, 1, *spread)
            reached = reached._replace(values=reached.values * mask)
    return reached


def _times(rows: Windows, factor: float | Tensor) -> Windows:
    return rows._replace(values=rows.values * (rows.chosen(factor) if isinstance(factor, Tensor) else factor))


def _constant(rows: Windows, constant: Tensor | None) -> Tensor | float:
    if constant is None:
        return 0.0
    return along(rows.values, rows.chosen(constant))
