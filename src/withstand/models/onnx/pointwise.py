"""Operators of ONNX that compute each number alone, or of several values number by number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from withstand.models.onnx.examples import Examples, Operand, together
from withstand.models.onnx.onnx_file import PRECISIONS, Known, Node
from withstand.models.onnx.operator_table import OPERATORS, Operator, operator

_OF_ONE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal,
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Asin": torch.asin,
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Asinh": torch.asinh,
    "Acosh": torch.acosh,
    "Atanh": torch.atanh,
    "Sign": torch.sign,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Not": torch.logical_not,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "HardSwish": F.hardswish,
    "Mish": F.mish,
}
_OF_TWO: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"Add": torch.add, "Mul": torch.mul}
_OF_COMPARED: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Equal": torch.eq,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
}
_OF_SCALES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"Sub": torch.sub, "Div": torch.div}
_OF_MANY: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Sum": torch.add,
}


def _mapped(function: Callable[[Tensor], Tensor], node: Node, x: Examples) -> Examples:
    return x.mapped(function)


def _together(function: Callable[..., Tensor], node: Node, *values: Operand) -> Examples:
    return together(function, *values)


def _reduced(function: Callable[[Tensor, Tensor], Tensor], node: Node, *values: Operand) -> Examples:
    def of_all(*tensors: Tensor) -> Tensor:
        return reduce(function, tensors)

    return together(of_all, *values)


OPERATORS.update({name: Operator(partial(_mapped, function)) for name, function in _OF_ONE.items()})
OPERATORS.update({name: Operator(partial(_together, function)) for name, function in _OF_TWO.items()})
OPERATORS.update({name: Operator(partial(_together, function)) for name, function in _OF_COMPARED.items()})
OPERATORS.update(
    {name: Operator(partial(_together, function), fixed=(0, 1)) for name, function in _OF_SCALES.items()}
)
OPERATORS.update({name: Operator(partial(_reduced, function)) for name, function in _OF_MANY.items()})


@operator("Mean")
def _mean(node: Node, *values: Operand) -> Examples:
    total = _reduced(torch.add, node, *values)
    return total.mapped(lambda tensor: tensor / len(values))


@operator("Identity", "Dropout")
def _identity(node: Node, x: Examples, *settings: Any) -> Examples:
    return x


OPERATORS["Dropout"] = Operator(_identity, known=(1, 2))


@operator("Cast")
def _cast(node: Node, x: Examples) -> Examples:
    if node.get("to") not in PRECISIONS or not x.tensor.is_floating_point():
        raise node.refusal(
            "rounds what depends on the input, or compares it, which has no slope; casts to float and double "
            "are read."
        )
    return x  # all of a network is computed in one precision


@operator("LeakyRelu")
def _leaky_relu(node: Node, x: Examples) -> Examples:
    return x.mapped(partial(F.leaky_relu, negative_slope=node.get("alpha", 0.01)))


@operator("ThresholdedRelu")
def _thresholded_relu(node: Node, x: Examples) -> Examples:
    return x.mapped(partial(F.threshold, threshold=node.get("alpha", 1.0), value=0.0))


@operator("Elu")
def _elu(node: Node, x: Examples) -> Examples:
    return x.mapped(partial(F.elu, alpha=node.get("alpha", 1.0)))


@operator("Celu")
def _celu(node: Node, x: Examples) -> Examples:
    return x.mapped(partial(F.celu, alpha=node.get("alpha", 1.0)))


@operator("Selu")
def _selu(node: Node, x: Examples) -> Examples:
    alpha, gamma = node.get("alpha", 1.67326319217681884765625), node.get("gamma", 1.05070102214813232421875)
    return x.mapped(lambda tensor: F.elu(tensor, alpha) * gamma)


@operator("Gelu")
def _gelu(node: Node, x: Examples) -> Examples:
    return x.mapped(partial(F.gelu, approximate=node.get("approximate", "none")))


@operator("HardSigmoid")
def _hard_sigmoid(node: Node, x: Examples) -> Examples:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    return x.mapped(lambda tensor: torch.clamp(tensor * alpha + beta, 0.0, 1.0))


@operator("PRelu")
def _prelu(node: Node, x: Examples, slope: Operand) -> Examples:
    if isinstance(slope, Examples):
        raise node.refusal("has slopes that depend on the input.")
    if slope.numel() == 1:
        return x.mapped(lambda tensor: F.prelu(tensor, slope.reshape(1)))
    sizes = (1,) * (x.rank - slope.dim()) + tuple(slope.shape)
    if x.shape[:1] == (1,) and x.rank > 1 and slope.numel() == sizes[1] == x.shape[1]:
        return x.mapped(lambda tensor: F.prelu(tensor, slope.reshape(-1)))
    return together(lambda tensor, slopes: torch.relu(tensor) - slopes * torch.relu(-tensor), x, slope)


@operator("Clip", known=(1, 2))
def _clip(node: Node, x: Examples, low: Known | None = None, high: Known | None = None) -> Examples:
    ends = node.get("min") if low is None else low.item(), node.get("max") if high is None else high.item()
    return x if ends == (None, None) else x.mapped(lambda tensor: torch.clamp(tensor, *ends))


@operator("Pow", known=(1,))
def _power(node: Node, x: Examples, exponent: Known) -> Examples:
    if exponent.size == 1 and exponent.ndim <= x.rank:
        value = exponent.item()
        return x.mapped(lambda tensor: tensor ** (int(value) if float(value).is_integer() else value))
    powers = torch.tensor(exponent, dtype=x.tensor.dtype, device=x.tensor.device)
    return together(torch.pow, x, powers)


@operator("Where")
def _where(node: Node, condition: Operand, x: Operand, y: Operand) -> Examples:
    return together(torch.where, condition, x, y)
