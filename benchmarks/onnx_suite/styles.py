"""The trained networks as ONNX in the styles of different frameworks, written by hand.

Each function takes the weights of a network of ``bases`` and gives a file that computes the same. What
differs from the network in inputs or outputs is in ``STYLES``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor

from onnx_suite.bases import HALVES
from onnx_suite.writer import Writer

__all__ = ["STYLES", "Style"]

Weights = Mapping[str, NDArray[np.float32]]
_N = "batch"


class Style(NamedTuple):
    """A file, and how it differs from the network of which it has the weights.

    Attributes:
        base: Name of the network.
        write: Makes the file of its weights.
        shape: Of one input of the file, without a batch.
        to_base: From inputs (batch, *shape) to those of the network.
        from_base: From the network's outputs to the file's.
    """

    base: str
    write: Callable[[Weights], onnx.ModelProto]
    shape: tuple[int, ...] = (1, 8, 8)
    to_base: Callable[[Tensor], Tensor] = lambda x: x
    from_base: Callable[[Tensor], Tensor] = lambda y: y


def _layers(
    g: Writer,
    w: Weights,
    activation: str,
    layer: Callable[[Writer, NDArray[np.float32], NDArray[np.float32]], object],
) -> Writer:
    """All dense layers of a network, each as ``layer`` writes it."""
    count = sum(name.endswith("weight") for name in w)
    for number in range(count):
        layer(g, w[f"linear{number}.weight"], w[f"linear{number}.bias"])
        if number < count - 1:
            g.then(activation)
    return g


def _gemm(g: Writer, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    g.then("Gemm", g.tensor(weight), g.tensor(bias), transB=1)


def _matmul(g: Writer, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    g.then("MatMul", g.tensor(weight.T)).then("Add", g.tensor(bias))


def _convolution(g: Writer, w: Weights, name: str, **attributes: Any) -> Writer:
    bias = [g.tensor(w[f"{name}.bias"])] if f"{name}.bias" in w else []
    return g.then("Conv", g.tensor(w[f"{name}.weight"]), *bias, **attributes)


# -- dense ------------------------------------------------------------------------------------------


def _plain_gemm(w: Weights) -> onnx.ModelProto:
    g = Writer(9, [_N, 1, 8, 8], constants="inputs").then("Flatten")
    plain = lambda g, weight, bias: g.then("Gemm", g.tensor(weight.T), g.tensor(bias))  # noqa: E731
    return _layers(g, w, "Relu", plain).model([_N, 10])


def _scaled_gemm(w: Weights) -> onnx.ModelProto:
    def layer(g: Writer, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        g.then("Gemm", g.tensor(2 * weight), g.tensor(bias / 4), transB=1, alpha=0.5, beta=4.0)

    return _layers(Writer(13, [1, 1, 8, 8]).then("Flatten", axis=1), w, "Relu", layer).model([1, 10])


def _normalised(w: Weights) -> onnx.ModelProto:
    """Sub and Div in front, which the first layer takes back, and every constant as a node."""
    weight, bias = w["linear0.weight"], w["linear0.bias"]
    w = {**w, "linear0.weight": 0.4 * weight, "linear0.bias": bias + 0.3 * weight.sum(1)}
    g = Writer(11, [_N, 1, 8, 8], constants="nodes")
    g.then("Sub", g.tensor([[[[0.3]]]])).then("Div", g.tensor(0.4)).then("Reshape", g.integers(-1, 64))
    return _layers(g, w, "Relu", _matmul).then("Identity").model([_N, 10])


def _from_the_left(w: Weights, shape: tuple[int, ...]) -> onnx.ModelProto:
    """A vector without a batch, or a column, multiplied from the left."""

    def layer(g: Writer, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        g.node("MatMul", g.tensor(weight), g.value)
        g.node("Add", g.tensor(bias.reshape(-1, *shape[1:])), g.value)

    return _layers(Writer(14, shape), w, "Relu", layer).model([10, *shape[1:]])


def _vector(w: Weights) -> onnx.ModelProto:
    return _layers(Writer(17, [64]), w, "Sigmoid", _matmul).model([10])


def _probabilities(w: Weights, opset: int) -> onnx.ModelProto:
    """Softmax at the end: before opset 13 over all axes from the second on, since then over the last."""
    g = Writer(opset, [_N, 64])
    return _layers(g, w, "Tanh", _matmul if opset < 13 else _gemm).then("Softmax").model([_N, 10])


# -- convolutions -----------------------------------------------------------------------------------


def _max_pool(w: Weights, opset: int) -> onnx.ModelProto:
    valid: dict[str, Any] = (
        {"auto_pad": "VALID"} if opset == 9 else {"pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1}
    )
    g = _convolution(Writer(opset, [_N, 1, 8, 8]), w, "0", kernel_shape=[3, 3], **valid).then("Relu")
    g.then("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    g = g.then("Flatten") if opset == 9 else g.then("Reshape", g.integers(0, -1))
    _gemm(g, w["4.weight"], w["4.bias"])
    return g.model([_N, 10])


def _average_pool(w: Weights) -> onnx.ModelProto:
    """Padding by a word, and the bias of a convolution as a sum."""
    g = Writer(11, [1, 1, 8, 8])
    g.then("Conv", g.tensor(w["0.weight"]), auto_pad="SAME_UPPER")
    g.then("Add", g.tensor(w["0.bias"].reshape(1, 6, 1, 1))).then("Relu")
    g.then("AveragePool", kernel_shape=[2, 2], strides=[2, 2])
    _convolution(g, w, "3").then("Relu").then("Reshape", g.integers(1, 72))
    _gemm(g, w["6.weight"], w["6.bias"])
    return g.model([1, 10])


def _batch_norm(w: Weights, opset: int) -> onnx.ModelProto:
    g = Writer(opset, [_N, 1, 8, 8])
    for number, strides in ((0, [2, 2]), (3, [1, 1])):
        _convolution(g, w, str(number), strides=strides)
        statistics = ("weight", "bias", "running_mean", "running_var")
        g.then(
            "BatchNormalization", *(g.tensor(w[f"{number + 1}.{name}"]) for name in statistics), epsilon=1e-5
        )
        g.then("Relu")
    if opset >= 18:
        g.then("ReduceMean", g.integers(2, 3), keepdims=0).then("Dropout")
    else:
        g.then("GlobalAveragePool").then("Dropout", **({"ratio": 0.5} if opset < 12 else {})).then("Flatten")
    _gemm(g, w["8.weight"], w["8.bias"])
    return g.model([_N, 10])


def _asymmetric(w: Weights, opset: int) -> onnx.ModelProto:
    """Pads below and to the right alone, of a convolution and by Pad, whose widths became an input."""
    pads = [0, 0, 1, 1]
    g = _convolution(Writer(opset, [_N, 1, 8, 8]), w, "1", strides=[2, 2], pads=pads).then("Relu")
    if opset < 11:
        g.then("Pad", pads=[0, 0, 0, 0, 0, 0, 1, 1], mode="constant", value=0.0)
        g.then("AveragePool", kernel_shape=[2, 2], strides=[2, 2])
    else:
        g.then("AveragePool", kernel_shape=[2, 2], strides=[2, 2], pads=pads, count_include_pad=1)
    g.then("Flatten")
    _gemm(g, w["6.weight"], w["6.bias"])
    return g.model([_N, 10])


def _pad_first(w: Weights) -> onnx.ModelProto:
    """Pad with widths and value as inputs, before a convolution that pads nothing; ReduceMean as a pool."""
    g = Writer(13, [1, 1, 8, 8])
    g.then("Pad", g.integers(0, 0, 0, 0, 0, 0, 1, 1), g.tensor(0.0), mode="constant")
    _convolution(g, w, "1", strides=[2, 2]).then("Relu")
    g.then("Pad", g.integers(0, 0, 0, 0, 0, 0, 1, 1))
    g.then("Slice", g.integers(0, 0), g.integers(4, 4), g.integers(2, 3))
    g.then("Reshape", g.integers(1, 6, 2, 2, 2, 2)).then("ReduceMean", axes=[3, 5], keepdims=0)
    g.then("Squeeze", g.tensor([0], np.int64)).then("Reshape", g.integers(1, -1))
    _gemm(g, w["6.weight"], w["6.bias"])
    return g.model([1, 10])


def _residual(w: Weights) -> onnx.ModelProto:
    g = Writer(14, [_N, 1, 8, 8])
    entry = _convolution(g, w, "first", strides=[2, 2], pads=[1, 1, 1, 1]).then("Relu").value
    _convolution(g, w, "inner", pads=[1, 1, 1, 1]).then("Relu")
    branch = _convolution(g, w, "outer", kernel_shape=[1, 1]).value
    g.node("Add", branch, entry)
    g.then("Relu").then("AveragePool", kernel_shape=[2, 2], strides=[2, 2]).then("Flatten")
    _gemm(g, w["last.weight"], w["last.bias"])
    return g.model([_N, 10])


def _channels_last(w: Weights) -> onnx.ModelProto:
    """As converters of TensorFlow write it: images with channels last, between transpositions."""
    g = Writer(13, [_N, 8, 4, 2]).then("Transpose", perm=[0, 3, 1, 2])
    _convolution(g, w, "0", auto_pad="SAME_UPPER").then("Relu")
    g.then("MaxPool", kernel_shape=[2, 2], strides=[2, 2]).then("Transpose", perm=[0, 2, 3, 1])
    g.then("Reshape", g.integers(-1, 48))
    weight = w["4.weight"].reshape(10, 6, 4, 2).transpose(0, 2, 3, 1).reshape(10, 48)
    _matmul(g, weight, w["4.bias"])
    return g.model([_N, 10])


# -- parts, sums and powers -------------------------------------------------------------------------


def _branches(w: Weights, opset: int) -> onnx.ModelProto:
    """The two parts of an image by Split or Slice, as each opset has them."""
    g = Writer(opset, [_N, 1, 8, 8]).then("Flatten")
    whole = g.value
    if opset in (9, 12):
        upper, lower = _slices(g, whole)
    else:
        more: Mapping[int, dict[str, Any]] = {11: {"split": [32, 32]}, 18: {"num_outputs": 2}}
        inputs = [whole, g.integers(32, 32)] if opset == 13 else [whole]
        upper, lower = g.node("Split", *inputs, outputs=2, axis=1, **more.get(opset, {}))
    g.value = upper
    _gemm(g, w["upper.weight"], w["upper.bias"])
    upper, g.value = g.then("Relu").value, lower
    _gemm(g, w["lower.weight"], w["lower.bias"])
    if opset == 9:
        g.then("Clip", min=0.0, max=6.0)
    else:
        g.then("Clip", g.tensor(0.0), g.tensor(6.0))
    g.node("Concat", upper, g.value, axis=-1 if opset >= 11 else 1)
    _gemm(g, w["last.weight"], w["last.bias"])
    return g.model([_N, 10])


def _slices(g: Writer, whole: str) -> tuple[str, str]:
    if g.opset == 9:
        (upper,) = g.node("Slice", whole, starts=[0], ends=[32], axes=[1])
        (lower,) = g.node("Slice", whole, starts=[-32], ends=[2**31 - 1], axes=[1])
    else:
        axis, step = g.integers(1), g.integers(1)
        (upper,) = g.node("Slice", whole, g.integers(0), g.integers(32), axis, step)
        (lower,) = g.node("Slice", whole, g.integers(32), g.integers(2**62), axis)
    return upper, lower


def _rows(w: Weights, opset: int) -> onnx.ModelProto:
    """Squeeze, Unsqueeze and sums over axes, as attributes or as inputs; a row by Gather or Slice."""
    g = Writer(opset, [_N, 1, 8, 8]).by_axes("Squeeze", 1, since=13)
    image = g.value
    _matmul(g, w["row.weight"], w["row.bias"])
    seen = g.then("LeakyRelu", alpha=0.1).value
    mean = g.by_axes("ReduceMean", 1, since=18, keepdims=0).value
    g.value = seen
    g.by_axes("ReduceSum", 1, since=13, keepdims=1).then("Mul", g.tensor(0.1))
    total = g.by_axes("Squeeze", 1, since=13).value
    g.value = image
    if opset == 9:
        g.then("Slice", starts=[3], ends=[4], axes=[1]).then("Squeeze", axes=[1])
    else:
        g.then("Gather", g.tensor(3, np.int64), axis=1)
    g.node("Concat", mean, total, g.value, axis=1)
    g.by_axes("Unsqueeze", 1, since=13)
    _matmul(g, w["last.weight"], w["last.bias"])
    return g.by_axes("Squeeze", 1, since=13).model([_N, 10])


def _squares(w: Weights, *, as_power: bool) -> onnx.ModelProto:
    g = Writer(12 if as_power else 9, [_N, 1, 8, 8]).then("Flatten")
    _gemm(g, w["first.weight"], w["first.bias"])
    value = g.value
    g = g.then("Pow", g.tensor(2.0)) if as_power else g.then("Mul", value)
    g.node("Concat", value, g.value, axis=1)
    _gemm(g, w["last.weight"], w["last.bias"])
    return g.model([_N, 10])


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, 1, 8, 8)


def _softmax(opset: int) -> Style:
    return Style("tanh", partial(_probabilities, opset=opset), (64,), _flat, lambda y: y.softmax(1))


STYLES: Mapping[str, Style] = MappingProxyType(
    {
        "gemm-9": Style("dense", _plain_gemm),
        "gemm-scaled-13": Style("dense", _scaled_gemm),
        "normalised-11": Style("dense", _normalised),
        "left-vector-14": Style("dense", partial(_from_the_left, shape=(64,)), (64,), _flat),
        "left-column-14": Style(
            "dense", partial(_from_the_left, shape=(64, 1)), (64, 1), _flat, lambda y: y[..., None]
        ),
        "sigmoid-vector-17": Style("sigmoid", _vector, (64,), _flat),
        "softmax-12": _softmax(12),
        "softmax-13": _softmax(13),
        "max-pool-9": Style("max-pool", partial(_max_pool, opset=9)),
        "max-pool-10": Style("max-pool", partial(_max_pool, opset=10)),
        "average-pool-11": Style("average-pool", _average_pool),
        "batch-norm-10": Style("batch-norm", partial(_batch_norm, opset=10)),
        "batch-norm-15": Style("batch-norm", partial(_batch_norm, opset=15)),
        "batch-norm-21": Style("batch-norm", partial(_batch_norm, opset=21)),
        "asymmetric-9": Style("asymmetric", partial(_asymmetric, opset=9)),
        "asymmetric-19": Style("asymmetric", partial(_asymmetric, opset=19)),
        "pad-first-13": Style("asymmetric", _pad_first),
        "residual-14": Style("residual", _residual),
        "channels-last-13": Style(
            "two-channels", _channels_last, (*HALVES[1:], HALVES[0]), lambda x: x.permute(0, 3, 1, 2)
        ),
        **{f"branches-{n}": Style("branches", partial(_branches, opset=n)) for n in (9, 11, 12, 13, 18)},
        **{f"rows-{n}": Style("rows", partial(_rows, opset=n)) for n in (9, 13, 20)},
        "power-12": Style("squares", partial(_squares, as_power=True)),
        "product-9": Style("squares", partial(_squares, as_power=False)),
    }
)
"""Name, which ends in the version of the operators -> file."""
