"""Operators of ONNX that sum up, compare or normalise along axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from withstand.models.onnx.examples import Examples, Operand, closed, count, numbers
from withstand.models.onnx.onnx_file import Known, Node
from withstand.models.onnx.operator_table import OPERATORS, Operator, operator

_Reduction = Callable[[Tensor, list[int], bool], Tensor]
_AXIS_BY_DEFAULT = 13  # opset from which softmax is along one axis

_REDUCTIONS: Mapping[str, _Reduction] = {
    "ReduceMean": lambda x, dims, keeps: x.mean(dims, keeps),
    "ReduceSum": lambda x, dims, keeps: x.sum(dims, keeps),
    "ReduceMax": lambda x, dims, keeps: x.amax(dims, keeps),
    "ReduceMin": lambda x, dims, keeps: x.amin(dims, keeps),
    "ReduceSumSquare": lambda x, dims, keeps: (x * x).sum(dims, keeps),
    "ReduceL1": lambda x, dims, keeps: x.abs().sum(dims, keeps),
    "ReduceL2": lambda x, dims, keeps: torch.linalg.vector_norm(x, 2, dims, keeps),
    "ReduceLogSum": lambda x, dims, keeps: x.sum(dims, keeps).log(),
    "ReduceLogSumExp": lambda x, dims, keeps: torch.logsumexp(x, dims, keeps),
}


def _reduce(function: _Reduction, node: Node, x: Examples, axes: Known | None = None) -> Examples:
    given = node.get("axes", ()) if axes is None else numbers(axes)
    if not len(given) and node.get("noop_with_empty_axes", 0):
        return x
    places = {x.dim(axis) for axis in given} or set(range(x.rank))
    keeps = bool(node.get("keepdims", 1))
    sizes = [1 if axis in places else size for axis, size in enumerate(x.shape)]
    shape = sizes if keeps else [size for axis, size in enumerate(sizes) if axis not in places]
    along = (
        sorted(places - {0}) if x.shape[:1] == (1,) else sorted(places)
    )  # of a size 1 there is nothing to do
    tensor, shift = x.opened(*along)
    if not along:
        tensor, along, shift = tensor.unsqueeze(-1), [tensor.dim()], 0  # so that squares are taken even so
    return Examples.of(function(tensor, [axis + shift for axis in along], keeps), shape)


OPERATORS.update(
    {name: Operator(partial(_reduce, function), known=(1,)) for name, function in _REDUCTIONS.items()}
)


def _softmax(function: Callable[[Tensor, int], Tensor], node: Node, x: Examples) -> Examples:
    if node.opset >= _AXIS_BY_DEFAULT:
        return x.along(node.get("axis", -1), function)
    axis = x.dim(node.get("axis", 1)) if x.rank > 1 else 0  # along all axes from this one on
    flat = Examples.of(x.tensor, (count(x.shape[:axis]), count(x.shape[axis:])))
    return Examples.of(flat.along(1, function).tensor, x.shape)


for _name, _function in {"Softmax": torch.softmax, "LogSoftmax": torch.log_softmax}.items():
    OPERATORS[_name] = Operator(partial(_softmax, _function))


@operator("GlobalAveragePool")
def _global_average(node: Node, x: Examples) -> Examples:
    return x.layered(lambda tensor: tensor.mean([*range(2, tensor.dim())], keepdim=True))


@operator("GlobalMaxPool")
def _global_max(node: Node, x: Examples) -> Examples:
    return x.layered(lambda tensor: tensor.amax([*range(2, tensor.dim())], keepdim=True))


@operator("LayerNormalization")
def _layer_norm(node: Node, x: Examples, scale: Operand, bias: Operand | None = None) -> Examples:
    axis = x.dim(node.get("axis", -1))
    shape = x.shape[axis:]
    tensor, shift = x.opened(axis)
    weights = [
        None if part is None else torch.broadcast_to(_constant(node, part), shape) for part in (scale, bias)
    ]
    return closed(F.layer_norm(tensor, shape, weights[0], weights[1], node.get("epsilon", 1e-5)), shift)


@operator("InstanceNormalization")
def _instance_norm(node: Node, x: Examples, scale: Operand, bias: Operand) -> Examples:
    weight, offset = _constant(node, scale), _constant(node, bias)
    epsilon = node.get("epsilon", 1e-5)
    return x.layered(lambda tensor: F.instance_norm(tensor, weight=weight, bias=offset, eps=epsilon))


@operator("GroupNormalization")
def _group_norm(node: Node, x: Examples, scale: Operand, bias: Operand) -> Examples:
    groups, channels = node.get("num_groups"), x.shape[1]
    parts = [_constant(node, part) for part in (scale, bias)]
    # Before opset 21 a group has one scale.
    weight, offset = (
        part if part.numel() == channels else part.repeat_interleave(channels // groups) for part in parts
    )
    return x.layered(
        lambda tensor: F.group_norm(tensor, groups, weight, offset, eps=node.get("epsilon", 1e-5))
    )


def _constant(node: Node, value: Operand) -> Tensor:
    if isinstance(value, Examples):
        raise node.refusal("has weights that depend on the input.")
    return value
