"""Sizes and paddings of windows that move over images, as ONNX says them."""

from __future__ import annotations

from collections.abc import Sequence

from withstand.models.onnx.onnx_file import Node

Pads = list[tuple[int, int]]
"""What is added at both ends of each axis."""


def per_axis(node: Node, key: str, rank: int, default: int) -> tuple[int, ...]:
    """An attribute with a number an axis."""
    return tuple(node.get(key, (default,) * rank))


def pads_of(
    node: Node, sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Pads:
    """The padding that a node says, by numbers or by ``auto_pad``.

    Args:
        node: A convolution or pooling.
        sizes: Of the images.
        kernel: Sizes of the window.
        stride: Its steps.
        dilation: Distance of what is in it.
    """
    rank, auto = len(kernel), node.get("auto_pad", "NOTSET")
    if auto == "VALID":
        return [(0, 0)] * rank
    if auto == "NOTSET":
        pads = node.get("pads", (0,) * 2 * rank)
        return [(pads[axis], pads[rank + axis]) for axis in range(rank)]
    pairs = []
    for size, side, step, spread in zip(sizes, kernel, stride, dilation, strict=True):
        total = max((-(-size // step) - 1) * step + spread * (side - 1) + 1 - size, 0)
        smaller, larger = total // 2, total - total // 2
        pairs.append((smaller, larger) if auto == "SAME_UPPER" else (larger, smaller))
    return pairs


def is_symmetric(pads: Pads) -> bool:
    """Whether torch's layers can add it themselves."""
    return all(begin == end >= 0 for begin, end in pads)


def torch_pads(pads: Pads) -> tuple[int, ...]:
    """As torch's padding takes it: the last axis first."""
    return tuple(end for ends in reversed(pads) for end in ends)
