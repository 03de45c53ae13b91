"""Operators of ONNX that torch has as layers with weights; such layers are made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from withstand.models.onnx.examples import Examples, Operand, count, product, together
from withstand.models.onnx.onnx_file import Known, Node
from withstand.models.onnx.operator_table import OPERATORS, Operator, Weights
from withstand.models.onnx.window_sizes import is_symmetric, pads_of, per_axis, torch_pads

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_PADS: dict[int, Any] = {1: nn.ConstantPad1d, 2: nn.ConstantPad2d, 3: nn.ConstantPad3d}
_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def _linear(
    weights: Weights, matrix: Known, bias: Known | None, *, transposed: bool, factor: float
) -> nn.Linear:
    """A linear layer of a matrix (inputs, outputs), or of its transpose where ``transposed``."""
    weight = weights.of(matrix, transposed=not transposed, factor=factor)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = weight
    if bias is not None:
        layer.bias = weights.of(bias)
    return layer


# -- Gemm and MatMul --------------------------------------------------------------------------------


def _gemm_layer(node: Node, x: Examples, weights: Weights, constants: list[Known | None]) -> nn.Module | None:
    matrix, offset = (*constants, None)[:2]
    assert matrix is not None
    transposed = bool(node.get("transB", 0))
    bias = None
    if offset is not None:
        bias = _as_bias(offset, matrix.shape[0 if transposed else 1], float(node.get("beta", 1.0)))
        if bias is None:
            return None
    return _linear(weights, matrix, bias, transposed=transposed, factor=float(node.get("alpha", 1.0)))


def _as_bias(offset: Known, outputs: int, factor: float) -> Known | None:
    """What is added to each row, as a vector; None where rows differ."""
    if offset.ndim > 1 and count(offset.shape[:-1]) != 1:
        return None
    if offset.shape == (outputs,) and factor == 1.0:
        return offset
    return np.array(np.broadcast_to(offset.reshape(-1) * offset.dtype.type(factor), (outputs,)))


def _gemm(node: Node, a: Operand, b: Operand | nn.Module, c: Operand | None = None) -> Examples:
    if node.get("transA", 0):
        a = _transposed(a)
    if isinstance(b, nn.Module):
        assert isinstance(a, Examples)
        return a.along(1, lambda tensor, dim: b(tensor))
    scaled = product(a, _transposed(b) if node.get("transB", 0) else b)
    alpha, beta = float(node.get("alpha", 1.0)), float(node.get("beta", 1.0))
    scaled = scaled if alpha == 1.0 else scaled.mapped(lambda tensor: tensor * alpha)
    return scaled if c is None else together(lambda x, y: torch.add(x, y, alpha=beta), scaled, c)


def _transposed(value: Operand) -> Operand:
    if not isinstance(value, Examples):
        return value.mT
    return Examples.of(value.opened(0)[0].mT, value.shape[::-1])


def _matmul_layer(
    node: Node, x: Examples, weights: Weights, constants: list[Known | None]
) -> nn.Module | None:
    matrix, bias = (*constants, None)[:2]
    if matrix is None or matrix.ndim != 2:
        return None
    return _linear(weights, matrix, bias, transposed=False, factor=1.0)


def _matmul(node: Node, a: Operand, b: Operand | nn.Module) -> Examples:
    if isinstance(b, nn.Module):
        assert isinstance(a, Examples)
        return a.along(-1, lambda tensor, dim: b(tensor))
    return product(a, b)


OPERATORS["Gemm"] = Operator(_gemm, layer=_gemm_layer)
OPERATORS["MatMul"] = Operator(_matmul, layer=_matmul_layer)


# -- convolutions -----------------------------------------------------------------------------------


def _layered(node: Node, x: Examples, layer: Any, *constants: object) -> Examples:
    if not isinstance(layer, nn.Module):
        raise node.refusal("has weights that depend on the input.")
    return x.layered(layer)


def _convolution(node: Node, x: Examples, weights: Weights, constants: list[Known | None]) -> nn.Module:
    kernel, bias = (*constants, None)[:2]
    assert kernel is not None
    sizes, rank, groups = kernel.shape[2:], kernel.ndim - 2, int(node.get("group", 1))
    stride, dilation = (per_axis(node, key, rank, 1) for key in ("strides", "dilations"))
    pads = pads_of(node, x.shape[2:], sizes, stride, dilation)
    layer: nn.Module = _dimensional(_CONVOLUTIONS, node, rank)(
        kernel.shape[1] * groups,
        kernel.shape[0],
        sizes,
        stride,
        tuple(begin for begin, _ in pads) if is_symmetric(pads) else 0,
        dilation,
        groups,
        bias=bias is not None,
        device="meta",
    )
    _fill(layer, weights, kernel, bias)
    return layer if is_symmetric(pads) else nn.Sequential(_PADS[rank](torch_pads(pads), 0.0), layer)


def _transposed_convolution(
    node: Node, x: Examples, weights: Weights, constants: list[Known | None]
) -> nn.Module:
    kernel, bias = (*constants, None)[:2]
    assert kernel is not None
    sizes, rank, groups = kernel.shape[2:], kernel.ndim - 2, int(node.get("group", 1))
    stride, dilation = (per_axis(node, key, rank, 1) for key in ("strides", "dilations"))
    added = per_axis(node, "output_padding", rank, 0)
    whole = [
        step * (size - 1) + more + (side - 1) * spread + 1
        for step, size, more, side, spread in zip(stride, x.shape[2:], added, sizes, dilation, strict=True)
    ]
    pads = _cropped(node, whole, [step * size for step, size in zip(stride, x.shape[2:], strict=True)])
    padding = tuple(begin for begin, _ in pads) if is_symmetric(pads) else (0,) * rank
    layer: nn.Module = _dimensional(_TRANSPOSED, node, rank)(
        kernel.shape[0],
        kernel.shape[1] * groups,
        sizes,
        stride,
        padding,
        added,
        groups,
        bias=bias is not None,
        dilation=dilation,
        device="meta",
    )
    _fill(layer, weights, kernel, bias)
    if is_symmetric(pads):
        return layer
    crop = _PADS[rank](torch_pads([(-begin, -end) for begin, end in pads]), 0.0)
    return nn.Sequential(layer, crop)


def _cropped(node: Node, whole: list[int], same: list[int]) -> list[tuple[int, int]]:
    """What is left out of a transposed convolution at both ends of each axis."""
    rank, auto = len(whole), node.get("auto_pad", "NOTSET")
    wanted = node.get("output_shape") or (same if auto.startswith("SAME") else None)
    if wanted is None:
        pads = node.get("pads", (0,) * 2 * rank)
        return [(0, 0) if auto == "VALID" else (pads[i], pads[rank + i]) for i in range(rank)]
    pairs = []
    for size, target in zip(whole, wanted[-rank:], strict=True):
        total = max(size - target, 0)
        smaller, larger = total // 2, total - total // 2
        pairs.append((smaller, larger) if auto == "SAME_UPPER" else (larger, smaller))
    return pairs


def _fill(layer: Any, weights: Weights, kernel: Known, bias: Known | None) -> None:
    layer.weight = weights.of(kernel)
    if bias is not None:
        layer.bias = weights.of(bias)


def _dimensional(kinds: Any, node: Node, rank: int) -> Any:
    if rank not in kinds:
        raise node.refusal(f"is of {rank} dimensions, but those of 1 to 3 are read.")
    return kinds[rank]


OPERATORS["Conv"] = Operator(_layered, layer=_convolution)
OPERATORS["ConvTranspose"] = Operator(_layered, layer=_transposed_convolution)


# -- batch normalisation ----------------------------------------------------------------------------


def _batch_norm(node: Node, x: Examples, weights: Weights, constants: list[Known | None]) -> nn.Module:
    if node.get("training_mode", 0):
        raise node.refusal("is in training mode; export the network in eval mode.")
    scale, bias, mean, variance = constants
    assert scale is not None
    assert bias is not None
    if x.rank not in _NORMS:
        raise node.refusal(f"is of {x.rank} dimensions, but those of 2 to 5 are read.")
    epsilon, momentum = float(node.get("epsilon", 1e-5)), 1 - float(node.get("momentum", 0.9))
    layer = _NORMS[x.rank](len(scale), epsilon, momentum, device="meta")
    layer.weight, layer.bias = weights.of(scale), weights.of(bias)
    layer.running_mean, layer.running_var = torch.tensor(mean), torch.tensor(variance)
    layer.num_batches_tracked = torch.tensor(0)
    return layer


OPERATORS["BatchNormalization"] = Operator(_layered, layer=_batch_norm)
