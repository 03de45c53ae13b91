"""Coefficients that are 0 beyond a window of a map, as those of a convolution's outputs are.

A row that starts at one place of a map sees, a few convolutions earlier, still but a few places around it. So
only these are carried, until a node comes that knows nothing of windows. Rows that start at one place share
their window, and all that is known of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from withstand.domains.linear.linear_inputs import InputSet
from withstand.domains.linear.nodes import Affine, Bent, Node, Rows, Shifted, Sum
from withstand.operators import Convolution, Diagonal, Shape


class Windows(NamedTuple):
    """Rows of coefficients of maps (channels, *sizes), as many of each window.

    Attributes:
        values: Tensor (windows or 1, rows of each, channels, *extent); beyond the map they say nothing.
        owner: Integers (windows,): of which example each window is.
        start: Integers (windows, dims): the first place of each; it may lie before the map.
        sizes: Of the maps.
    """

    values: Tensor
    owner: Tensor
    start: Tensor
    sizes: Shape

    @classmethod
    def at(cls, places: Tensor, channels: Tensor, sizes: Shape) -> Self:
        """Windows of one place each.

        Args:
            places: Integers (windows, 1 + dims): the example, and where in its map.
            channels: Coefficients of the channels there, (windows or 1, rows of each, channels).
            sizes: Of the map.
        """
        values = channels.reshape(*channels.shape, *[1] * len(sizes))
        return cls(values, places[:, 0], places[:, 1:], sizes)

    @property
    def num_rows(self) -> int:
        """Of all windows."""
        return len(self.start) * self.values.shape[1]

    @property
    def extent(self) -> Shape:
        """The size of a window."""
        return tuple(self.values.shape[3:])

    @property
    def is_worthwhile(self) -> bool:
        """Whether a window is smaller than its map."""
        return math.prod(self.extent) < math.prod(self.sizes)

    def chosen(self, of: Tensor) -> Tensor:
        """What each window is to know of its example, 0 beyond the map.

        Args:
            of: Broadcasts to (batch, channels, *sizes).

        Returns:
            Tensor (windows, channels, *extent).
        """
        of = _batched(of, self).expand(-1, self.values.shape[2], *self.sizes)
        padding, places = self._padding
        view = self._windows_of(F.pad(of, padding))
        owner = self.owner if len(of) > 1 else torch.zeros_like(self.owner)
        return view[(owner, *places.unbind(1))]

    def inside(self) -> Self:
        """The same with 0 where windows reach out of the map."""
        if not any(self._padding[0]):
            return self
        mask = self.chosen(self.values.new_ones(()))[:, None]
        return self._replace(values=self.values * mask)

    def whole(self) -> Rows:
        """The same as coefficients of whole maps."""
        padding, places = self._padding
        windows, (_, count, channels) = len(self.start), self.values.shape[:3]
        whole = F.pad(self.values.new_zeros(windows, count * channels, *self.sizes), padding)
        every = torch.arange(windows, device=places.device)
        values = self.values.flatten(1, 2).expand(windows, -1, *self.extent)
        self._windows_of(whole)[(every, *places.unbind(1))] = values
        cut = F.pad(whole, [-side for side in padding])
        owner = self.owner.repeat_interleave(count)
        return Rows(cut.reshape(-1, channels, *self.sizes), owner)

    def plus(self, other: Windows) -> Windows | None:
        """The sum, where the windows lie to each other the same way in all rows; else None."""
        apart = other.start - self.start
        if bool((apart != apart[:1]).any()):
            return None
        offsets = apart[0].tolist()
        first = [min(0, offset) for offset in offsets]
        last = [
            max(size, offset + others)
            for size, offset, others in zip(self.extent, offsets, other.extent, strict=True)
        ]
        values, others = (
            F.pad(
                part.values,
                _padding(
                    [at - start for at, start in zip(offset, first, strict=True)],
                    [end - at - size for end, at, size in zip(last, offset, part.extent, strict=True)],
                ),
            )
            for part, offset in ((self, [0] * len(first)), (other, offsets))
        )
        return self._replace(values=values + others, start=self.start + apart.new_tensor(first))

    @property
    def _padding(self) -> tuple[list[int], Tensor]:
        """How far windows reach out of the map, as ``F.pad`` takes it; where they start in what is padded."""
        extent, sizes = self.start.new_tensor(self.extent), self.start.new_tensor(self.sizes)
        before = (-self.start).amax(0).clamp_min(0)
        after = (self.start + extent - sizes).amax(0).clamp_min(0)
        return _padding(before.tolist(), after.tolist()), self.start + before

    def _windows_of(self, maps: Tensor) -> Tensor:
        """A view (batch, *places, channels, *extent) of (batch, channels, *sizes)."""
        for dim, size in enumerate(self.extent):
            maps = maps.unfold(2 + dim, size, 1)
        return maps.movedim(1, 1 + len(self.sizes))


def pull_back(node: Node, rows: Windows) -> tuple[Sequence[Windows], Tensor | float] | None:
    """As of a node; None where it knows nothing of windows.

    Args:
        node: Which the rows are functions of.
        rows: The functions.
    """
    match node:
        case Affine(operator=Convolution() as operator):
            rows = rows.inside()
            return [_through(operator, rows, node.parents[0].shape)], _constant(rows, node.bias)
        case Affine(operator=Diagonal(scale=scale)):
            return [_times(rows, scale)], _constant(rows.inside(), node.bias)
        case Shifted(constant=constant) if bool(constant.isfinite().all()):
            return [rows], _constant(rows.inside(), constant)
        case Sum():
            return [_times(rows, factor) for factor in node.factors], 0.0
        case Bent():
            lines = node.own_lines.made(lambda line: rows.chosen(line)[:, None])
            back, constant = lines.applied(rows.values, _along)
            return [rows._replace(values=back)], constant.flatten()
    return None


def least(inputs: InputSet, rows: Windows) -> Tensor:
    """The minimum of linear functions of the inputs, (rows,).

    Args:
        inputs: The sets of inputs.
        rows: The functions.
    """
    values = rows.inside().values.expand(len(rows.start), *[-1] * (rows.values.dim() - 1))
    return inputs.cut(rows.owner, rows.chosen).least_of_examples(values).flatten()


def _through(operator: Convolution, rows: Windows, shape: Shape) -> Windows:
    """What the outputs of a convolution are of its inputs."""
    kernel = operator.weight.shape[2:]
    parts = rows.extent, kernel, operator.stride, operator.dilation
    extent = [
        (size - 1) * step + (taps - 1) * spread + 1 for size, taps, step, spread in zip(*parts, strict=True)
    ]
    if math.prod(rows.extent) == operator.groups == 1 and extent == [*kernel]:
        # Each row is a combination of kernels.
        kernels = rows.values.flatten(2) @ operator.weight.flatten(1)
        values = kernels.reshape(*kernels.shape[:2], *operator.weight.shape[1:])
    else:
        plain = replace(operator, padding=[0] * len(extent))
        values = plain.transposed(rows.values.flatten(0, 1), (shape[0], *extent))
        values = values.reshape(*rows.values.shape[:2], *values.shape[1:])
    step, margin = (rows.start.new_tensor([*part]) for part in (operator.stride, operator.padding))
    return Windows(values, rows.owner, rows.start * step - margin, shape[1:])


def _times(rows: Windows, factor: float | Tensor) -> Windows:
    if isinstance(factor, Tensor):
        factor = _batched(factor, rows)
        factor = factor if _is_of_channels(factor) else rows.chosen(factor)[:, None]
    elif factor == 1:
        return rows
    return rows._replace(values=rows.values * factor)


def _constant(rows: Windows, constant: Tensor | None) -> Tensor | float:
    """Each row times a constant that broadcasts to (batch, channels, *sizes)."""
    if constant is None:
        return 0.0
    constant = _batched(constant, rows)
    if _is_of_channels(constant):
        total = rows.values.flatten(3).sum(3) @ constant.flatten().expand(rows.values.shape[2])
    else:
        total = _along(rows.values, rows.chosen(constant)[:, None])
    return total.expand(len(rows.start), -1).flatten()


def _batched(of: Tensor, rows: Windows) -> Tensor:
    """What broadcasts to (batch, channels, *sizes), with as many dimensions."""
    return of.reshape(*[1] * (2 + len(rows.sizes) - of.dim()), *of.shape)


def _is_of_channels(of: Tensor) -> bool:
    """Whether it is the same at all places of all examples."""
    return of.numel() == of.shape[1]


def _along(values: Tensor, constants: Tensor) -> Tensor:
    """Products (windows, rows of each) of (windows or 1, rows of each, …) and (windows, 1, …)."""
    return (values.flatten(2) @ constants.flatten(2).mT).squeeze(2)


def _padding(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """As ``F.pad`` takes it: the last dimension first."""
    return [side for sides in reversed([*zip(before, after, strict=True)]) for side in sides]
