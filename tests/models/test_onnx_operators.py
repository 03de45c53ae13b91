"""Each operator of ONNX that is read, against onnxruntime, for one example at a time and for batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from withstand.models.onnx import read, runtime

_RANDOM = np.random.default_rng(0)
_BATCH = 3


def _array(*shape: int) -> np.ndarray[Any, Any]:
    return _RANDOM.normal(size=shape).astype(np.float32)


def _ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


def _float(value: float) -> np.ndarray[Any, Any]:
    return np.array(value, np.float32)


def _node(op: str, *inputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs or ["x"], ["y"], **attributes)


class Case:
    """One small network; its name is that of its first operator and what is special of it."""

    def __init__(
        self,
        name: str,
        nodes: onnx.NodeProto | Sequence[onnx.NodeProto],
        shape: Sequence[int] = (1, 4),
        *,
        opset: int = 18,
        kind: int = TensorProto.FLOAT,
        **constants: np.ndarray[Any, Any],
    ) -> None:
        self.name, self.shape, self.opset, self.kind = name, shape, opset, kind
        self.nodes = [nodes] if isinstance(nodes, onnx.NodeProto) else nodes
        self.constants = constants


def _simple(op: str, *, shape: Sequence[int] = (1, 4), opset: int = 18, **attributes: Any) -> Case:
    return Case(f"{op} {attributes or ''}", _node(op, **attributes), shape, opset=opset)


_IMAGE = (1, 2, 5, 6)
_TOKENS = (1, 3, 4)

POINTWISE = [
    *(_simple(op) for op in ("Relu", "Sigmoid", "Tanh", "Erf", "Exp", "Abs", "Neg", "Sin", "Cos", "Sign")),
    *(_simple(op) for op in ("Floor", "Ceil", "Softplus", "Softsign", "HardSwish", "Mish", "Identity")),
    *(_simple(op) for op in ("LeakyRelu", "Elu", "Celu", "Selu", "HardSigmoid", "Dropout")),
    *(_simple(op) for op in ("Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Atanh")),
    *(
        Case(f"{op} of more", [helper.make_node("Mul", ["x", "a"], ["h"]), _node(op, "h")], a=_float(7))
        for op in ("Round", "ThresholdedRelu")
    ),
    Case(
        "Round of ties",
        [
            helper.make_node("Floor", ["x"], ["h"]),
            helper.make_node("Add", ["h", "a"], ["b"]),
            _node("Round", "b"),
        ],
        a=np.array([-1.5, -0.5, 0.5, 1.5], np.float32),
    ),
    _simple("ThresholdedRelu", alpha=0.0),
    _simple("ThresholdedRelu", alpha=0.4),
    _simple("LeakyRelu", alpha=0.2),
    _simple("Elu", alpha=0.5),
    _simple("HardSigmoid", alpha=0.3, beta=0.4),
    _simple("Gelu", opset=20),
    _simple("Gelu", opset=20, approximate="tanh"),
    _simple("Cast", to=1),
    Case(
        "Sqrt, Log, Reciprocal",
        [
            helper.make_node("Exp", ["x"], ["a"]),
            helper.make_node("Sqrt", ["a"], ["b"]),
            helper.make_node("Reciprocal", ["b"], ["c"]),
            helper.make_node("Log", ["c"], ["y"]),
        ],
    ),
    Case("Acosh", [helper.make_node("Exp", ["x"], ["e"]), _node("Acosh", "e")]),
    Case("Dropout of opset 7", _node("Dropout", ratio=0.5), opset=7),
    Case("Clip by inputs", _node("Clip", "x", "a", "b"), a=_float(-0.2), b=_float(0.3)),
    Case("Clip of one end", _node("Clip", "x", "", "b"), b=_float(0.3)),
    Case("Clip by attributes", _node("Clip", min=-0.2, max=0.3), opset=9),
    Case("PRelu of one slope", _node("PRelu", "x", "a"), _IMAGE, a=_array(1)),
    Case("PRelu of channels", _node("PRelu", "x", "a"), _IMAGE, a=_array(2, 1, 1)),
    Case("PRelu of all", _node("PRelu", "x", "a"), _IMAGE, a=_array(5, 6)),
    *(
        Case(f"{op} by a constant behind", _node(op, "x", "a"), a=_array(4))
        for op in ("Add", "Sub", "Mul", "Div")
    ),
    *(
        Case(f"{op} by a constant in front", _node(op, "a", "x"), a=_array(1, 4))
        for op in ("Add", "Sub", "Mul")
    ),
    Case(
        "Div of a constant",
        [helper.make_node("Exp", ["x"], ["e"]), _node("Div", "a", "e")],
        a=_array(4),
    ),
    Case("Add of more dimensions", _node("Add", "x", "a"), (4,), a=_array(3, 4)),
    Case("Add of one number", _node("Add", "x", "a"), (1,), a=_array(3)),
    Case("Mul of values", [helper.make_node("Tanh", ["x"], ["a"]), _node("Mul", "x", "a")]),
    Case(
        "Add across sizes",
        [helper.make_node("ReduceMean", ["x"], ["a"], axes=[2], keepdims=0), _node("Add", "x", "a")],
        (1, 4, 4),
        opset=13,
    ),
    Case("Max of three", [helper.make_node("Tanh", ["x"], ["a"]), _node("Max", "x", "a", "b")], b=_array(4)),
    Case("Min of a constant", _node("Min", "b", "x"), b=_array(4)),
    Case("Mean", [helper.make_node("Tanh", ["x"], ["a"]), _node("Mean", "b", "x", "a")], b=_array(3, 4)),
    Case("Mean of one", _node("Mean")),
    Case("Sum", [helper.make_node("Tanh", ["x"], ["a"]), _node("Sum", "x", "a")]),
    Case("Pow 2", _node("Pow", "x", "a"), a=_float(2)),
    Case("Pow 3 as a list", _node("Pow", "x", "a"), a=_array(1) * 0 + 3),
    Case("Pow of many", _node("Pow", "x", "a"), a=np.array([1, 2, 3, 2], np.float32)),
    Case(
        "Where and Greater",
        [helper.make_node("Greater", ["x", "a"], ["c"]), _node("Where", "c", "x", "b")],
        a=_float(0.5),
        b=_array(4),
    ),
    *(
        Case(
            f"{op} of comparisons",
            [
                helper.make_node("Greater", ["x", "a"], ["b"]),
                helper.make_node("Less", ["x", "e"], ["c"]),
                helper.make_node("Not", ["b"], ["d"]),
                helper.make_node(op, ["d", "c"], ["f"]),
                _node("Where", "f", "x", "a"),
            ],
            a=_float(0.5),
            e=_float(0.25),
        )
        for op in ("And", "Or", "Xor", "Equal")
    ),
    Case("Where", _node("Where", "c", "x", "a"), c=np.array([True, False, True, False]), a=_array(4)),
    Case("double", [_node("MatMul", "x", "a")], kind=TensorProto.DOUBLE, a=_array(4, 3).astype(np.float64)),
    Case(
        "Cast to double",
        [
            helper.make_node("Cast", ["x"], ["a"], to=TensorProto.DOUBLE),
            helper.make_node("MatMul", ["a", "w"], ["b"]),
            _node("Cast", "b", to=TensorProto.FLOAT),
        ],
        w=_array(4, 3).astype(np.float64),
    ),
]

MATRICES = [
    Case("Gemm", _node("Gemm", "x", "w", "b"), w=_array(4, 3), b=_array(3)),
    Case(
        "Gemm transB, alpha, beta",
        _node("Gemm", "x", "w", "b", transB=1, alpha=0.5, beta=2.0),
        w=_array(3, 4),
        b=_array(1, 3),
    ),
    Case("Gemm of one bias", _node("Gemm", "x", "w", "b"), w=_array(4, 3), b=_array(1)),
    Case("Gemm without bias", _node("Gemm", "x", "w"), w=_array(4, 3)),
    Case("Gemm of rows", _node("Gemm", "x", "w", "b"), (3, 4), w=_array(4, 2), b=_array(3, 2)),
    Case("Gemm transA", _node("Gemm", "x", "w", transA=1), (4, 2), w=_array(4, 3)),
    Case(
        "Gemm from the right",
        _node("Gemm", "w", "x", "b", alpha=2.0, transB=1),
        w=_array(3, 4),
        b=_array(3, 1),
    ),
    Case("MatMul", _node("MatMul", "x", "w"), w=_array(4, 3)),
    Case("MatMul of a vector", _node("MatMul", "x", "w"), (4,), w=_array(4, 3)),
    Case("MatMul of one number", _node("MatMul", "x", "w"), (1,), w=_array(1, 3)),
    Case("MatMul by a vector", _node("MatMul", "x", "w"), (1, 3, 4), w=_array(4)),
    Case("MatMul from the left", _node("MatMul", "w", "x"), (4, 1), w=_array(3, 4)),
    Case("MatMul from the left of a row", _node("MatMul", "w", "x"), (1, 4), w=_array(3, 1)),
    Case("MatMul of columns", _node("MatMul", "w", "x"), (1, 4, 1), w=_array(3, 4)),
    Case("MatMul of many", _node("MatMul", "x", "w"), (2, 3, 4), w=_array(2, 4, 5)),
    Case(
        "MatMul of tokens",
        [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), _node("MatMul", "x", "t")],
        _TOKENS,
    ),
    Case("MatMul of a square", [helper.make_node("Tanh", ["x"], ["t"]), _node("MatMul", "x", "t")], (3, 3)),
]

SHAPES = [
    *(Case(f"Flatten {axis}", _node("Flatten", axis=axis), _IMAGE) for axis in (0, 1, 2, -1)),
    Case("Reshape", _node("Reshape", "x", "s"), _IMAGE, s=_ints(1, -1)),
    Case("Reshape that copies", _node("Reshape", "x", "s"), _IMAGE, s=_ints(0, -1, 3)),
    Case("Reshape without batch", _node("Reshape", "x", "s"), _IMAGE, s=_ints(-1)),
    Case("Reshape to tokens", _node("Reshape", "x", "s"), _IMAGE, s=_ints(2, 30)),
    Case(
        "Reshape by its shape",
        [
            helper.make_node("Shape", ["x"], ["a"]),
            helper.make_node("Gather", ["a", "i"], ["b"]),
            helper.make_node("Unsqueeze", ["b", "z"], ["c"]),
            helper.make_node("Concat", ["c", "m"], ["d"], axis=0),
            _node("Reshape", "x", "d"),
        ],
        _IMAGE,
        i=np.array(0),
        z=_ints(0),
        m=_ints(-1),
    ),
    Case(
        "Shape from 2 on",
        [
            helper.make_node("Shape", ["x"], ["a"], start=2),
            helper.make_node("Concat", ["m", "a"], ["d"], axis=0),
            _node("Reshape", "x", "d"),
        ],
        _IMAGE,
        m=_ints(-1),
    ),
    Case("Transpose", _node("Transpose", perm=[0, 2, 3, 1]), _IMAGE),
    Case("Transpose of the batch", _node("Transpose", perm=[2, 0, 1]), _TOKENS),
    Case("Transpose by default", _node("Transpose"), _TOKENS),
    Case("Squeeze by input", _node("Squeeze", "x", "a"), (1, 1, 1, 5), a=_ints(1, -2)),
    Case("Squeeze by attribute", _node("Squeeze", axes=[0, 2]), (1, 2, 1, 5), opset=11),
    Case("Squeeze all", _node("Squeeze"), (1, 1, 5)),
    Case("Unsqueeze by input", _node("Unsqueeze", "x", "a"), (1, 5), a=_ints(0, -1)),
    Case("Unsqueeze by attribute", _node("Unsqueeze", axes=[2]), (1, 5), opset=11),
    Case("Concat", [helper.make_node("Tanh", ["x"], ["a"]), _node("Concat", "x", "a", axis=1)]),
    Case(
        "Concat along the first",
        [helper.make_node("Tanh", ["x"], ["a"]), _node("Concat", "x", "a", "c", axis=0)],
        c=_array(2, 4),
    ),
    Case("Concat of a constant", _node("Concat", "c", "x", axis=1), _TOKENS, c=_array(1, 2, 4)),
    Case("Split", [helper.make_node("Split", ["x"], ["a", "b"], axis=1), _node("Sub", "a", "b")], opset=13),
    Case(
        "Split by input",
        [helper.make_node("Split", ["x", "s"], ["a", "b"], axis=-1), _node("Concat", "b", "a", axis=1)],
        s=_ints(1, 3),
    ),
    Case(
        "Split by attribute",
        [
            helper.make_node("Split", ["x"], ["a", "b"], axis=1, split=[1, 3]),
            _node("Concat", "b", "a", axis=1),
        ],
        opset=11,
    ),
    Case(
        "Split in unequal parts",
        [
            helper.make_node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2),
            _node("Concat", "b", "a", axis=1),
        ],
        (1, 5),
    ),
    Case(
        "Split of tokens",
        [
            helper.make_node("Split", ["x"], ["a", "b", "c"], axis=0),
            helper.make_node("Mul", ["a", "c"], ["d"]),
            _node("Add", "d", "b"),
        ],
        (3, 4),
        opset=13,
    ),
    Case(
        "Slice by inputs",
        _node("Slice", "x", "a", "b", "c", "d"),
        _IMAGE,
        a=_ints(1, -1),
        b=_ints(5, -100),
        c=_ints(2, 3),
        d=_ints(2, -2),
    ),
    Case("Slice without axes", _node("Slice", "x", "a", "b"), _IMAGE, a=_ints(0, 1), b=_ints(9, 9)),
    Case("Slice by attributes", _node("Slice", starts=[1], ends=[-1], axes=[3]), _IMAGE, opset=9),
    Case("Gather of one", _node("Gather", "x", "i", axis=1), _TOKENS, i=np.array(-1)),
    Case("Gather of the batch", _node("Gather", "x", "i", axis=0), _TOKENS, i=np.array(0)),
    Case("Gather of many", _node("Gather", "x", "i", axis=2), _TOKENS, i=np.array([[3, 0], [0, -2]])),
    Case("Pad", _node("Pad", "x", "a", "v"), _IMAGE, a=_ints(0, 0, 1, 0, 0, 1, 2, 3), v=_float(0.5)),
    Case("Pad of axes", _node("Pad", "x", "a", "", "c"), _IMAGE, a=_ints(1, 2), c=_ints(2)),
    Case("Pad that crops", _node("Pad", "x", "a"), _IMAGE, a=_ints(0, 0, -1, 1, 0, 0, 0, -2)),
    Case("Pad of the first", _node("Pad", "x", "a"), _TOKENS, a=_ints(1, 0, 0, 1, 0, 0)),
    Case("Pad by attributes", _node("Pad", pads=[0, 1, 0, 2], value=2.0), opset=9),
    *(
        Case(f"Pad {mode}", _node("Pad", "x", "a", mode=mode), _IMAGE, a=_ints(0, 0, 1, 2, 0, 0, 2, 1))
        for mode in ("edge", "reflect")
    ),
    Case("Expand", _node("Expand", "x", "s"), (1, 3, 1), s=_ints(2, 1, 1, 4)),
    Case("Expand behind", _node("Expand", "x", "s"), (1, 3, 1), s=_ints(1, 3, 4)),
    Case("Tile", _node("Tile", "x", "s"), _TOKENS, s=_ints(1, 2, 3)),
    Case("Tile of the first", _node("Tile", "x", "s"), _TOKENS, s=_ints(2, 1, 1)),
    *(
        Case(f"DepthToSpace {mode}", _node("DepthToSpace", blocksize=2, mode=mode), (1, 8, 2, 3))
        for mode in ("DCR", "CRD")
    ),
    Case("SpaceToDepth", _node("SpaceToDepth", blocksize=2), (1, 3, 4, 6)),
    Case("SpaceToDepth of several", _node("SpaceToDepth", blocksize=2), (2, 1, 4, 2)),
    Case(
        "ConstantOfShape by its shape",
        [
            helper.make_node("Shape", ["x"], ["a"]),
            helper.make_node(
                "ConstantOfShape", ["a"], ["b"], value=numpy_helper.from_array(np.array([2.0], np.float32))
            ),
            _node("Add", "x", "b"),
        ],
    ),
    Case(
        "Constant of each kind",
        [
            helper.make_node("Constant", [], ["a"], value_float=2.0),
            helper.make_node("Constant", [], ["b"], value_floats=[1.0, 2.0, 3.0, 4.0]),
            helper.make_node("Constant", [], ["i"], value_ints=[1]),
            helper.make_node("Mul", ["x", "a"], ["c"]),
            helper.make_node("Add", ["c", "b"], ["d"]),
            _node("Unsqueeze", "d", "i"),
        ],
    ),
]

REDUCTIONS = [
    *(_simple(op, opset=13) for op in ("Softmax", "LogSoftmax")),
    Case("Softmax along the first", _node("Softmax", axis=0), (3, 4), opset=13),
    Case("Softmax of opset 11", _node("Softmax"), _TOKENS, opset=11),
    Case("Softmax of opset 11 along the last", _node("Softmax", axis=2), _TOKENS, opset=11),
    *(
        Case(f"{op} by attribute", _node(op, axes=[2, 3], keepdims=0), _IMAGE, opset=11)
        for op in (
            "ReduceMean",
            "ReduceSum",
            "ReduceMax",
            "ReduceMin",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceLogSumExp",
        )
    ),
    *(
        Case(f"{op} by input", _node(op, "x", "a"), _IMAGE, a=_ints(-1))
        for op in ("ReduceMean", "ReduceSum", "ReduceMax")
    ),
    Case(
        "ReduceLogSum",
        [helper.make_node("Exp", ["x"], ["e"]), _node("ReduceLogSum", "e", "a", keepdims=0)],
        _IMAGE,
        a=_ints(1, -1),
    ),
    Case("ReduceSum of all", _node("ReduceSum", keepdims=0), _IMAGE),
    Case("ReduceSum of none", _node("ReduceSum", "x", "a", noop_with_empty_axes=1), _IMAGE, a=_ints()),
    Case("ReduceL2 along the first", _node("ReduceL2", "x", "a", keepdims=0), _TOKENS, a=_ints(0)),
    Case("ReduceMean of tokens", _node("ReduceMean", "x", "a"), (3, 4), a=_ints(0)),
    *(_simple(op, shape=_IMAGE) for op in ("GlobalAveragePool", "GlobalMaxPool")),
    Case(
        "LayerNormalization",
        _node("LayerNormalization", "x", "a", "b", epsilon=1e-3),
        _TOKENS,
        a=_array(4),
        b=_array(4),
    ),
    Case(
        "LayerNormalization of all", _node("LayerNormalization", "x", "a", axis=0), _TOKENS, a=_array(1, 3, 4)
    ),
    Case(
        "InstanceNormalization",
        _node("InstanceNormalization", "x", "a", "b"),
        _IMAGE,
        a=_array(2),
        b=_array(2),
    ),
    Case(
        "GroupNormalization",
        _node("GroupNormalization", "x", "a", "b", num_groups=2),
        (1, 4, 3, 3),
        opset=21,
        a=_array(4),
        b=_array(4),
    ),
    *(
        Case(
            f"BatchNormalization of {len(shape)}",
            _node("BatchNormalization", "x", "a", "b", "m", "v", epsilon=1e-3),
            shape,
            opset=15,
            a=_array(3),
            b=_array(3),
            m=_array(3),
            v=np.abs(_array(3)),
        )
        for shape in ((1, 3), (1, 3, 4), (1, 3, 4, 5), (2, 3, 4, 5))
    ),
]

_W = _array(4, 2, 3, 3)
WINDOWS = [
    Case("Conv", _node("Conv", "x", "w", "b", pads=[1, 1, 1, 1], strides=[2, 1]), _IMAGE, w=_W, b=_array(4)),
    Case("Conv of unequal pads", _node("Conv", "x", "w", pads=[0, 1, 2, 1]), _IMAGE, w=_W),
    *(
        Case(f"Conv {auto}", _node("Conv", "x", "w", auto_pad=auto, strides=[2, 2]), _IMAGE, w=_W)
        for auto in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    Case(
        "Conv of groups and dilation",
        _node("Conv", "x", "w", group=2, dilations=[2, 1]),
        _IMAGE,
        w=_array(4, 1, 2, 3),
    ),
    Case("Conv of one dimension", _node("Conv", "x", "w", pads=[0, 2]), (1, 2, 5), w=_array(3, 2, 3)),
    Case("Conv of three", _node("Conv", "x", "w"), (1, 2, 3, 4, 5), w=_array(3, 2, 2, 2, 2)),
    Case("Conv of two images", _node("Conv", "x", "w"), (2, 2, 5, 6), w=_W),
    Case(
        "ConvTranspose",
        _node("ConvTranspose", "x", "w", "b", strides=[2, 3], pads=[1, 1, 1, 1], output_padding=[1, 0]),
        _IMAGE,
        w=_array(2, 3, 3, 3),
        b=_array(3),
    ),
    Case(
        "ConvTranspose of unequal pads",
        _node("ConvTranspose", "x", "w", strides=[2, 2], pads=[0, 1, 2, 1], dilations=[2, 1]),
        _IMAGE,
        w=_array(2, 3, 3, 3),
    ),
    Case(
        "ConvTranspose of a shape",
        _node("ConvTranspose", "x", "w", strides=[2, 2], output_shape=[10, 12]),
        _IMAGE,
        w=_array(2, 3, 3, 3),
    ),
    *(
        Case(
            f"ConvTranspose {auto}",
            _node("ConvTranspose", "x", "w", strides=[2, 2], auto_pad=auto),
            _IMAGE,
            w=_array(2, 3, 3, 3),
        )
        for auto in ("SAME_UPPER", "SAME_LOWER")
    ),
    *(
        Case(f"{op}", _node(op, kernel_shape=[2, 3], strides=[2, 1]), _IMAGE)
        for op in ("MaxPool", "AveragePool")
    ),
    *(
        Case(f"{op} padded", _node(op, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), _IMAGE)
        for op in ("MaxPool", "AveragePool")
    ),
    *(
        Case(
            f"{op} of unequal pads", _node(op, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 2, 1, 1]), _IMAGE
        )
        for op in ("MaxPool", "AveragePool")
    ),
    *(
        Case(
            f"{op} rounded up",
            _node(op, kernel_shape=[2, 3], strides=[2, 2], pads=[0, 1, 0, 1], ceil_mode=1),
            _IMAGE,
            opset=19,
        )
        for op in ("MaxPool", "AveragePool")
    ),
    *(
        Case(f"{op} {auto}", _node(op, kernel_shape=[2, 3], strides=[2, 2], auto_pad=auto), _IMAGE)
        for op in ("MaxPool", "AveragePool")
        for auto in ("SAME_UPPER", "SAME_LOWER")
    ),
    *(
        Case(
            f"AveragePool that counts pads, rounded {up}",
            _node(
                "AveragePool",
                kernel_shape=[2, 3],
                strides=[2, 2],
                pads=pads,
                count_include_pad=1,
                ceil_mode=up,
            ),
            _IMAGE,
            opset=19,
        )
        for up in (0, 1)
        for pads in ([1, 1, 1, 1], [0, 2, 1, 1])
    ),
    Case("MaxPool of one dimension, dilated", _node("MaxPool", kernel_shape=[2], dilations=[2]), (1, 2, 5)),
    Case("AveragePool of three", _node("AveragePool", kernel_shape=[2, 2, 2]), (1, 2, 3, 4, 5)),
    Case("Upsample of opset 7", _node("Upsample", scales=[1.0, 1.0, 2.0, 3.0]), _IMAGE, opset=7),
    Case(
        "Upsample of opset 9",
        _node("Upsample", "x", "s"),
        _IMAGE,
        opset=9,
        s=np.array([1, 1, 2, 3], np.float32),
    ),
    Case(
        "Resize of opset 10",
        _node("Resize", "x", "s"),
        _IMAGE,
        opset=10,
        s=np.array([1, 1, 1.5, 2], np.float32),
    ),
    Case("Resize to sizes", _node("Resize", "x", "", "", "s"), _IMAGE, s=_ints(1, 2, 8, 3)),
    *(
        Case(
            f"Resize {place} {near}",
            _node("Resize", "x", "", "s", coordinate_transformation_mode=place, nearest_mode=near),
            _IMAGE,
            s=np.array([1, 1, 1.6, 0.5], np.float32),
        )
        for place in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
        for near in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    ),
]

CASES = [*POINTWISE, *MATRICES, *SHAPES, *REDUCTIONS, *WINDOWS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_operator_gives_what_onnxruntime_gives_for_each_example(
    case: Case, write_onnx: Callable[..., Path]
) -> None:
    file = write_onnx(case.nodes, case.shape, case.constants, opset=case.opset, kind=case.kind)
    network = read(file)
    dtype = next((part.dtype for part in network.parameters()), torch.float32)
    inputs = torch.rand(_BATCH, *network.input_shape, dtype=dtype)
    run = runtime(file)
    expected = torch.stack([run(row.reshape(network.file_shape)).flatten() for row in inputs]).to(dtype)
    torch.testing.assert_close(network(inputs), expected, rtol=1e-4, atol=1e-5)
    assert network(inputs).shape == (_BATCH, network.num_outputs)


@given(data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pooling_gives_what_onnxruntime_gives_whatever_its_windows_are(
    data: st.DataObject, write_onnx: Callable[..., Path]
) -> None:
    op = data.draw(st.sampled_from(["MaxPool", "AveragePool"]))
    kernel = data.draw(st.integers(1, 3))
    ends = st.integers(0, kernel - 1)
    node = _node(
        op,
        kernel_shape=[kernel],
        strides=[data.draw(st.integers(1, 3))],
        pads=[data.draw(ends), data.draw(ends)],
        ceil_mode=data.draw(st.integers(0, 1)),
        **({"count_include_pad": data.draw(st.integers(0, 1))} if op == "AveragePool" else {}),
    )
    network = read(write_onnx(node, (1, 2, data.draw(st.integers(3, 7))), opset=19))
    assert network.num_outputs >= 2  # reading compares it with onnxruntime


@given(data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_slices_are_those_of_onnxruntime_whatever_their_ends_and_steps(
    data: st.DataObject, write_onnx: Callable[..., Path]
) -> None:
    size, step = data.draw(st.integers(2, 6)), data.draw(st.sampled_from([1, 2, 3, -1, -2]))
    ends = st.integers(-8, 8)
    start, end = data.draw(ends), data.draw(ends)
    assume(len(range(size)[start:end:step]) > 0)
    constants = {"a": _ints(start), "b": _ints(end), "c": _ints(1), "d": _ints(step)}
    network = read(write_onnx(_node("Slice", "x", "a", "b", "c", "d"), (1, size, 2), constants))
    assert network.num_outputs == 2 * len(range(size)[start:end:step])
