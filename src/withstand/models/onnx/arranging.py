"""Operators of ONNX that move, pick, join and spread numbers, or say how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from withstand.models.onnx.examples import Examples, Operand, aligned, closed, count, numbers, stored
from withstand.models.onnx.onnx_file import Known, Node
from withstand.models.onnx.operator_table import operator


@operator("Shape")
def _shape(node: Node, x: Examples) -> Known:
    return np.array(x.shape[slice(node.get("start"), node.get("end"))], np.int64)


@operator("Size")
def _size(node: Node, x: Examples) -> Known:
    return np.array(count(x.shape), np.int64)


@operator("Reshape", known=(1,))
def _reshape(node: Node, x: Examples, target: Known) -> Examples:
    sizes = numbers(target)
    if not node.get("allowzero", 0):
        sizes = [x.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
    if -1 in sizes:
        rest = count([size for size in sizes if size != -1])
        sizes[sizes.index(-1)] = count(x.shape) // max(rest, 1)
    if count(sizes) != count(x.shape):
        raise node.refusal(f"makes {tuple(sizes)} of {x.shape}, which has other many numbers.")
    return Examples.of(x.tensor, sizes)


@operator("Flatten")
def _flatten(node: Node, x: Examples) -> Examples:
    axis = slice(None, node.get("axis", 1)).indices(x.rank)[1]
    return Examples.of(x.tensor, (count(x.shape[:axis]), count(x.shape[axis:])))


@operator("Squeeze", known=(1,))
def _squeeze(node: Node, x: Examples, axes: Known | None = None) -> Examples:
    dropped = {x.dim(axis) for axis in _axes(node, axes, [a for a, size in enumerate(x.shape) if size == 1])}
    return Examples.of(x.tensor, [size for axis, size in enumerate(x.shape) if axis not in dropped])


@operator("Unsqueeze", known=(1,))
def _unsqueeze(node: Node, x: Examples, axes: Known | None = None) -> Examples:
    places = _axes(node, axes, [])
    rank = x.rank + len(places)
    added, sizes = {place % rank for place in places}, iter(x.shape)
    return Examples.of(x.tensor, [1 if axis in added else next(sizes) for axis in range(rank)])


@operator("Transpose")
def _transpose(node: Node, x: Examples) -> Examples:
    order = node.get("perm", tuple(range(x.rank))[::-1])
    tensor, shift = x.opened(*(() if tuple(order[:1]) == (0,) else (0,)))
    return closed(tensor.permute(*([0] if shift else []), *(axis + shift for axis in order)), shift)


@operator("Concat")
def _concat(node: Node, *parts: Operand) -> Examples:
    axis = node.get("axis") % len(parts[0].shape)
    tensors, shift = aligned(parts)
    if axis == 0 and shift == 0:
        tensors = [p.opened(0)[0] if isinstance(p, Examples) else p for p in parts]
        shift = 1
    batch = next(part.tensor.shape[0] for part in parts if isinstance(part, Examples))
    spread = [
        tensor if isinstance(part, Examples) else tensor.expand(batch, *part.shape[1 - shift :])
        for part, tensor in zip(parts, tensors, strict=True)
    ]
    return closed(torch.cat(spread, axis + shift), shift)


@operator("Split", known=(1,))
def _split(node: Node, x: Examples, sizes: Known | None = None) -> tuple[Examples, ...]:
    axis = x.dim(node.get("axis", 0))
    lengths = node.get("split") if sizes is None else numbers(sizes)
    if lengths is None:
        parts = len(node.outputs)
        longest = -(-x.shape[axis] // parts)
        lengths = [max(0, min(longest, x.shape[axis] - longest * part)) for part in range(parts)]
    tensor, shift = x.opened(axis)
    return tuple(closed(part, shift) for part in torch.split(tensor, list(lengths), axis + shift))


@operator("Slice", known=(1, 2, 3, 4))
def _slice(node: Node, x: Examples, *settings: Known | None) -> Examples:
    given = [None if part is None else numbers(part) for part in settings] + [None] * (4 - len(settings))
    starts, ends = given[0] or node.get("starts", ()), given[1] or node.get("ends", ())
    axes = given[2] or node.get("axes") or range(len(starts))
    for start, end, axis, step in zip(starts, ends, axes, given[3] or [1] * len(starts), strict=True):
        kept = range(x.shape[x.dim(axis)])[slice(start, end, step)]
        x = picked(x, axis, list(kept))
    return x


@operator("Gather", known=(1,))
def _gather(node: Node, x: Examples, index: Known) -> Examples:
    axis = x.dim(node.get("axis", 0))
    if index.ndim == 0:
        tensor, shift = x.opened(axis)
        return closed(tensor.select(axis + shift, int(index)), shift)
    chosen = picked(x, axis, [place % x.shape[axis] for place in numbers(index.reshape(-1))])
    return Examples.of(chosen.tensor, (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


def picked(x: Examples, axis: int, places: Sequence[int]) -> Examples:
    """Some of the numbers along an axis, in an order, as slices where they are."""
    steps = {after - before for before, after in pairwise(places)}
    if list(places) == [*range(x.shape[x.dim(axis)])]:
        return x
    if len(steps) <= 1 and places and min(steps, default=1) > 0:
        first, last, step = places[0], places[-1] + 1, min(steps, default=1)
        if step == 1:
            return x.along(axis, lambda tensor, dim: tensor.narrow(dim, first, last - first))
        return x.along(axis, lambda tensor, dim: tensor[(slice(None),) * dim + (slice(first, last, step),)])
    index = torch.tensor(places, dtype=torch.int64, device=x.tensor.device)
    return x.along(axis, lambda tensor, dim: tensor.index_select(dim, index))


@operator("Pad", known=(1, 2, 3))
def _pad(
    node: Node, x: Examples, pads: Known | None = None, value: Known | None = None, axes: Known | None = None
) -> Examples:
    amounts = numbers(node.get("pads") if pads is None else pads)
    chosen = range(x.rank) if axes is None else [x.dim(axis) for axis in numbers(axes)]
    half = len(amounts) // 2
    by_axis = {axis: (amounts[i], amounts[half + i]) for i, axis in enumerate(chosen)}
    used = {axis: ends for axis, ends in by_axis.items() if any(ends)}
    mode = node.get("mode", "constant")
    if mode != "constant":
        for axis, ends in used.items():
            x = picked(x, axis, np.pad(np.arange(x.shape[axis]), ends, mode=mode).tolist())
        return x
    fill = node.get("value", 0.0) if value is None or not value.size else value.item()
    tensor, shift = x.opened(*used)
    first = min(used, default=x.rank)
    last_first = [end for axis in reversed(range(first, x.rank)) for end in by_axis.get(axis, (0, 0))]
    return closed(torch.nn.functional.pad(tensor, last_first, value=float(fill)), shift) if used else x


@operator("Expand", known=(1,))
def _expand(node: Node, x: Examples, target: Known) -> Examples:
    shape = np.broadcast_shapes(x.shape, tuple(numbers(target)))
    if shape == x.shape:
        return x
    padded = Examples.of(x.tensor, (1,) * (len(shape) - x.rank) + x.shape)
    tensor = padded.tensor if shape[:1] == (1,) else padded.opened(0)[0]
    return Examples.of(tensor.expand(tensor.shape[0], *stored(shape)), shape)


@operator("Tile", known=(1,))
def _tile(node: Node, x: Examples, repeats: Known) -> Examples:
    times = numbers(repeats)
    tensor, shift = x.opened(*(axis for axis, number in enumerate(times) if number != 1))
    return closed(tensor.repeat(1, *times[1 - shift :]), shift)


@operator("DepthToSpace")
def _depth_to_space(node: Node, x: Examples) -> Examples:
    size, (_, channels, height, width) = node.get("blocksize"), x.shape
    if node.get("mode", "DCR") == "CRD":
        return x.layered(lambda tensor: torch.nn.functional.pixel_shuffle(tensor, size))

    def spread(tensor: Tensor) -> Tensor:
        parts = tensor.reshape(-1, size, size, channels // size**2, height, width)
        return parts.permute(0, 3, 4, 1, 5, 2).reshape(-1, channels // size**2, height * size, width * size)

    return x.layered(spread)


@operator("SpaceToDepth")
def _space_to_depth(node: Node, x: Examples) -> Examples:
    size, (_, channels, height, width) = node.get("blocksize"), x.shape

    def gathered(tensor: Tensor) -> Tensor:
        parts = tensor.reshape(-1, channels, height // size, size, width // size, size)
        return parts.permute(0, 3, 5, 1, 2, 4).reshape(-1, channels * size**2, height // size, width // size)

    return x.layered(gathered)


def _axes(node: Node, given: Known | None, default: Sequence[int]) -> list[int]:
    """The axes of an operation, which older files have as an attribute and newer as an input."""
    axes: Any = node.get("axes") if given is None else given
    return list(default) if axes is None else numbers(axes)
