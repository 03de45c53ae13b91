"""Small networks of random weights, and the least value of an output over a box, by integer programs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import nn

from onnx_suite.writer import Writer

__all__ = ["Dense", "as_onnx", "least", "random"]

Array = NDArray[np.float64]


class Dense(NamedTuple):
    """A network of dense layers with ReLU between them.

    Attributes:
        weights: Of each layer, (outputs, inputs), in what float32 holds.
        biases: Of each layer, (outputs,).
    """

    weights: Sequence[Array]
    biases: Sequence[Array]

    def module(self) -> nn.Module:
        """The same in torch, of rows of inputs."""
        layers: list[nn.Module] = [nn.Flatten()]
        for weight, bias in zip(self.weights, self.biases, strict=True):
            layer = nn.Linear(weight.shape[1], weight.shape[0])
            layer.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
            layers += [layer, nn.ReLU()]
        return nn.Sequential(*layers[:-1]).requires_grad_(requires_grad=False).eval()


def random(seed: int, *widths: int) -> Dense:
    """A network of random weights: as many inputs, hidden values and outputs as ``widths`` says."""
    rng = np.random.default_rng(seed)

    def drawn(scale: float, *shape: int) -> Array:
        return (scale * rng.normal(size=shape)).astype(np.float32).astype(np.float64)

    pairs = list(pairwise(widths))
    return Dense(
        [drawn(np.sqrt(2 / inner), outer, inner) for inner, outer in pairs],
        [drawn(0.25, outer) for _, outer in pairs],
    )


def as_onnx(dense: Dense, *, opset: int, shape: Sequence[int | str]) -> onnx.ModelProto:
    """The network as files of air traffic advisories have theirs: Sub, Div, Flatten, and MatMul with Add.

    Sub and Div, of 0 and 1, leave the inputs as they are.
    """
    inputs = dense.weights[0].shape[1]
    g = Writer(opset, shape)
    g.then("Sub", g.tensor(np.zeros(inputs))).then("Div", g.tensor(np.ones(inputs))).then("Flatten")
    for number, (weight, bias) in enumerate(zip(dense.weights, dense.biases, strict=True)):
        if number:
            g.then("Relu")
        g.then("MatMul", g.tensor(weight.T)).then("Add", g.tensor(bias))
    return g.model([shape[0], len(dense.biases[-1])])


def least(dense: Dense, lower: Array, upper: Array, row: Array) -> float:
    """The least value of ``row @ outputs`` over a box of inputs, exact up to the solver's tolerance of 1e-6.

    Each ReLU that may be on either side is a number 0 or 1 (Tjeng et al., ICLR 2019, section 4).

    Args:
        dense: The network.
        lower: The least inputs (inputs,).
        upper: The largest.
        row: Of the outputs.
    """
    program = _Program(lower, upper)
    value = np.arange(len(lower))
    for number, (weight, bias) in enumerate(zip(dense.weights, dense.biases, strict=True)):
        value = program.affine(value, weight, bias)
        if number < len(dense.weights) - 1:
            value = program.relu(value)
    return program.least(value, row)


class _Program:
    """Variables with their bounds, and what holds between them."""

    def __init__(self, lower: Array, upper: Array) -> None:
        self.lower, self.upper = list(lower), list(upper)
        self.whole = [0] * len(lower)
        self.rows: list[tuple[dict[int, float], float, float]] = []

    def add(self, lower: float, upper: float, *, is_whole: bool = False) -> int:
        self.lower.append(lower)
        self.upper.append(upper)
        self.whole.append(int(is_whole))
        return len(self.whole) - 1

    def affine(self, value: NDArray[np.int64], weight: Array, bias: Array) -> NDArray[np.int64]:
        low, high = np.array(self.lower)[value], np.array(self.upper)[value]
        positive, negative = np.maximum(weight, 0), np.minimum(weight, 0)
        result = [
            self.add(least, most)
            for least, most in zip(
                positive @ low + negative @ high + bias, positive @ high + negative @ low + bias, strict=True
            )
        ]
        for index, row, shift in zip(result, weight, bias, strict=True):
            entries = dict(zip(value.tolist(), row.tolist(), strict=True))
            self.rows.append(({**entries, index: -1.0}, -shift, -shift))
        return np.array(result)

    def relu(self, value: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.array([self._relu(int(index)) for index in value])

    def _relu(self, index: int) -> int:
        low, high = self.lower[index], self.upper[index]
        if low >= 0:
            return index
        result = self.add(0.0, max(high, 0.0))
        if high > 0:
            side = self.add(0, 1, is_whole=True)
            self.rows.append(({result: 1.0, index: -1.0}, 0.0, np.inf))
            self.rows.append(({result: 1.0, index: -1.0, side: -low}, -np.inf, -low))
            self.rows.append(({result: 1.0, side: -high}, -np.inf, 0.0))
        return result

    def least(self, value: NDArray[np.int64], row: Array) -> float:
        count = len(self.whole)
        matrix = np.zeros((len(self.rows), count))
        for number, (entries, _, _) in enumerate(self.rows):
            matrix[number, list(entries)] = list(entries.values())
        cost = np.zeros(count)
        cost[value] = row
        done = milp(
            cost,
            constraints=LinearConstraint(matrix, [r[1] for r in self.rows], [r[2] for r in self.rows]),
            integrality=np.array(self.whole),
            bounds=Bounds(self.lower, self.upper),
        )
        if not done.success:
            raise RuntimeError(f"The program was not solved: {done.message}")
        return float(done.fun)
