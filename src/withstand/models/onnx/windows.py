"""Operators of ONNX that pool windows of images, or repeat their pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from withstand.models.onnx.arranging import picked
from withstand.models.onnx.examples import Examples
from withstand.models.onnx.onnx_file import SUPPORTED, Known, Node
from withstand.models.onnx.operator_table import operator
from withstand.models.onnx.window_sizes import Pads, is_symmetric, pads_of, per_axis, torch_pads

_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_HALF_PIXEL = 11  # opset from which pixels are taken from where they lie closest


def _windows(node: Node, x: Examples) -> tuple[Sequence[int], Sequence[int], Sequence[int], Pads, Pads]:
    """Kernel, stride, dilation, padding, and what is more at the end where sizes are rounded up."""
    kernel = tuple(node.get("kernel_shape"))
    rank = len(kernel)
    if rank not in _MAX:
        raise node.refusal(f"is of {rank} dimensions, but those of 1 to 3 are read.")
    stride, dilation = (per_axis(node, key, rank, 1) for key in ("strides", "dilations"))
    pads = pads_of(node, x.shape[2:], kernel, stride, dilation)
    more = []
    for size, side, step, spread, (begin, end) in zip(
        x.shape[2:], kernel, stride, dilation, pads, strict=True
    ):
        length = spread * (side - 1) + 1
        free = size + begin + end - length
        steps = math.ceil(free / step) if node.get("ceil_mode", 0) else free // step
        if steps * step >= size + begin:  # a window that begins behind the image is none
            steps -= 1
        more.append((0, max(steps * step - free, 0)))
    return kernel, stride, dilation, pads, more


def _may_pad(pads: Pads, kernel: Sequence[int]) -> bool:
    """Whether torch's pooling can add it itself."""
    return is_symmetric(pads) and all(
        2 * begin <= side for (begin, _), side in zip(pads, kernel, strict=True)
    )


@operator("MaxPool")
def _max_pool(node: Node, x: Examples) -> Examples:
    kernel, stride, dilation, pads, more = _windows(node, x)
    pool: Any = _MAX[len(kernel)]
    whole = [(begin, end + extra) for (begin, end), (_, extra) in zip(pads, more, strict=True)]
    if _may_pad(whole, kernel):
        padding = [begin for begin, _ in whole]
        return x.layered(lambda tensor: pool(tensor, kernel, stride, padding, dilation))
    if any(spread > 1 for spread in dilation):
        raise node.refusal("pads one end more than the other, with dilation; that is not read.")
    # A window that reaches over an edge has the pixel at the edge, so this may be there once more.
    for axis, (begin, end) in enumerate(whole, start=2):
        places = np.clip(np.arange(-begin, x.shape[axis] + end), 0, x.shape[axis] - 1)
        x = picked(x, axis, places.tolist())
    return x.layered(lambda tensor: pool(tensor, kernel, stride))


@operator("AveragePool")
def _average_pool(node: Node, x: Examples) -> Examples:
    kernel, stride, dilation, pads, more = _windows(node, x)
    if any(spread > 1 for spread in dilation):
        raise node.refusal("has dilation, which is not read.")
    pool, counts_pads = _AVERAGE[len(kernel)], bool(node.get("count_include_pad", 0))
    if _may_pad(pads, kernel) and not any(extra for _, extra in more):
        padding = [begin for begin, _ in pads]
        return x.layered(lambda tensor: pool(tensor, kernel, stride, padding, count_include_pad=counts_pads))
    whole = [(begin, end + extra) for (begin, end), (_, extra) in zip(pads, more, strict=True)]

    def average(tensor: Tensor) -> Tensor:
        ones = tensor.new_ones((1, 1, *tensor.shape[2:]))
        inside = F.pad(ones, torch_pads(pads), value=1.0) if counts_pads else F.pad(ones, torch_pads(pads))
        shares: Tensor = pool(F.pad(inside, torch_pads(more)), kernel, stride)
        means: Tensor = pool(F.pad(tensor, torch_pads(whole)), kernel, stride)
        return means * (1 / shares)

    return x.layered(average)


# -- sizes ------------------------------------------------------------------------------------------


@operator("Upsample", known=(1,))
def _upsample(node: Node, x: Examples, scales: Known | None = None) -> Examples:
    return _repeated(node, x, node.get("scales") if scales is None else scales, None)


@operator("Resize", known=(1, 2, 3))
def _resize(node: Node, x: Examples, *settings: Known | None) -> Examples:
    if node.opset < _HALF_PIXEL:
        return _repeated(node, x, settings[0], None)
    _, scales, sizes = (*settings, None, None, None)[:3]
    return _repeated(node, x, scales if scales is not None and scales.size else None, sizes)


def _repeated(node: Node, x: Examples, scales: Any, sizes: Known | None) -> Examples:
    """Each axis at another size, by the pixel that is nearest."""
    if node.get("mode", "nearest") != "nearest":
        raise node.refusal(f"in the mode {node.get('mode')!r} is not read, but nearest is; {SUPPORTED}.")
    if node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.refusal("keeps the ratio of sides, which is not read; state both sizes.")
    axes = [x.dim(axis) for axis in node.get("axes", range(x.rank))]
    for i, axis in enumerate(axes):
        size = x.shape[axis]
        target = int(sizes[i]) if sizes is not None else math.floor(size * float(scales[i]))
        scale = target / size if sizes is not None else float(scales[i])
        if target != size:
            x = picked(x, axis, _nearest(node, size, target, scale))
    return x


def _nearest(node: Node, size: int, target: int, scale: Any) -> list[int]:
    """Of each new place along an axis, the former one that is nearest."""
    places, scale = np.arange(target, dtype=np.float32), np.float32(scale)  # rounded as onnxruntime does
    is_old = node.op == "Upsample" or node.opset < _HALF_PIXEL
    kind = "asymmetric" if is_old else node.get("coordinate_transformation_mode", "half_pixel")
    match kind:
        case "asymmetric":
            former = places / scale
        case "half_pixel" | "pytorch_half_pixel":
            former = (
                (places + np.float32(0.5)) / scale - np.float32(0.5)
                if target > 1 or kind == "half_pixel"
                else 0.0 * places
            )
        case "align_corners":
            former = places * np.float32(size - 1) / np.float32(max(target - 1, 1))
        case _:
            raise node.refusal(f"by the coordinates {kind!r} is not read; {SUPPORTED}.")
    match "floor" if is_old else node.get("nearest_mode", "round_prefer_floor"):
        case "round_prefer_floor":
            rounded = np.ceil(former - 0.5)
        case "round_prefer_ceil":
            rounded = np.floor(former + 0.5)
        case "floor":
            rounded = np.floor(former)
        case _:
            rounded = np.ceil(former)
    return [int(place) for place in np.clip(rounded, 0, size - 1)]
