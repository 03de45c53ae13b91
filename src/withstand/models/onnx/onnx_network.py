"""A network from an ONNX file: a module of plain operations of torch, on batches of any size."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.models.onnx import arranging, pointwise, reductions, weighted, windows  # noqa: F401 - they enter
from withstand.models.onnx.examples import Examples, Shape, count, stored
from withstand.models.onnx.onnx_file import LARGEST, SUPPORTED, Known, Node, OnnxFile, folded
from withstand.models.onnx.operator_table import OPERATORS, Operator, Weights
from withstand.types import ModelError

_TORCH_LOG = logging.getLogger("torch._subclasses.fake_tensor")
_SIZES = ("Shape", "Size")  # which depend on nothing but shapes


class _Value(NamedTuple):
    """An argument that depends on the input, by its name."""

    name: str


class _Held(NamedTuple):
    """An argument that the module has: a layer, parameter or buffer, by its name."""

    name: str


class _Step(NamedTuple):
    """An operation, with its arguments: names, arrays, or None."""

    node: Node
    arguments: Sequence[_Value | _Held | Known | None]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a network computes; it never changes, and is no module's business beside this one's."""

    steps: Sequence[_Step]
    drops: Sequence[Sequence[str]]
    input_name: str
    output_name: str

    def __deepcopy__(self, memo: Mapping[int, Any]) -> _Plan:
        return self


class OnnxNetwork(nn.Module):
    """Computes what an ONNX file says, for a batch of any size: each example as the file does it alone.

    What stands in the place of weights are parameters, named as in the file as far as its names allow; linear
    layers, convolutions and batch normalisations are those of torch. Other constants are buffers.

    Args:
        file: What the file holds.
        file_shape: Of the input for a batch of one, as the file has it.
        input_shape: Of one example as it is handed over: as many numbers.
        digest: Of the file's content, and what was changed of it.

    Attributes:
        input_shape: Of one example.
        file_shape: Of the file's input for one example, with its batch of one.
        num_outputs: Numbers an example that it answers.
        digest: Of the file's content, and what was changed of it: networks of one digest compute the same.

    Raises:
        ModelError: an operator is not supported, or does not fit its inputs.
    """

    def __init__(self, file: OnnxFile, file_shape: Shape, input_shape: Shape, digest: str) -> None:
        super().__init__()
        self.input_shape, self.file_shape = tuple(input_shape), file_shape
        self.digest, self.num_outputs = digest, 0  # before weights, which may have any name
        steps, output_shape = _Builder(self, file).built(file_shape)
        self.num_outputs = count(output_shape)
        self._plan = _Plan(steps, _drops(steps, file.output_name), file.input_name, file.output_name)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Answers (batch, outputs) to inputs (batch, …), in the file's order.

        Raises:
            ModelError: the inputs are of another shape.
        """
        plan: _Plan = self._plan
        if images.shape[1:] != self.input_shape:
            raise ModelError(
                f"The network takes examples of shape {self.input_shape}, but got {tuple(images.shape[1:])}."
            )
        values = {plan.input_name: Examples.of(images, self.file_shape)}
        for step, drops in zip(plan.steps, plan.drops, strict=True):
            arguments = [self._argument(argument, values) for argument in step.arguments]
            results = _results(OPERATORS[step.node.op].compute(step.node, *arguments))
            values.update(zip(step.node.outputs, results, strict=False))
            for name in drops:
                del values[name]
        answer = values[plan.output_name].tensor
        return answer if answer.dim() == 2 else answer.reshape(answer.shape[0], self.num_outputs)

    def _argument(self, argument: Any, values: Mapping[str, Examples]) -> Any:
        if isinstance(argument, _Value):
            return values[argument.name]
        return getattr(self, argument.name) if isinstance(argument, _Held) else argument

    @override
    def extra_repr(self) -> str:
        return f"input_shape={self.input_shape}, num_outputs={self.num_outputs}, digest={self.digest[:16]}"


def _results(result: Any) -> Sequence[Any]:
    return [result] if isinstance(result, Examples | np.ndarray) else result


def _drops(steps: Sequence[_Step], output: str) -> list[list[str]]:
    """After each step, the values that none reads any more."""
    last = {
        argument.name: number
        for number, step in enumerate(steps)
        for argument in step.arguments
        if isinstance(argument, _Value)
    }
    drops: list[list[str]] = [[] for _ in steps]
    for name, number in last.items():
        if name != output:
            drops[number].append(name)
    return drops


class _Builder:
    """Makes the steps of a network, and what it holds, by going through the file with shapes alone."""

    def __init__(self, network: OnnxNetwork, file: OnnxFile) -> None:
        self._network, self._file = network, file
        from torch._subclasses.fake_tensor import FakeTensorMode  # here, since it takes long to import

        self._shapes_alone = FakeTensorMode(allow_non_fake_inputs=True)  # so that no file takes up memory
        self._weights = Weights()
        self._converted: dict[int, Known] = {}
        self._known = dict(file.constants)
        self._learned = set(file.weights)
        self._values: dict[str, Examples] = {}
        self._held: dict[int, str] = {}
        self._steps: list[_Step] = []

    def built(self, file_shape: Shape) -> tuple[list[_Step], Shape]:
        """The steps that the output needs, and its shape."""
        file = self._file
        _require_size(file.input_name, file_shape)
        self._require_operators()
        with self._shapes_alone:
            blank = torch.empty(1, *stored(file_shape), dtype=getattr(torch, file.precision))
        self._values[file.input_name] = Examples(blank, file_shape)
        for node, proto in self._needed():
            if node.outputs[0] not in self._values:  # it may be computed with the one before
                self._read(node, proto)
        if file.output_name not in self._values:
            raise ModelError(f"The output {file.output_name} of the network does not depend on its input.")
        return self._steps, self._values[file.output_name].shape

    def _needed(self) -> list[tuple[Node, Any]]:
        wanted, chosen = {self._file.output_name}, []
        for node, proto in reversed(self._file.nodes):
            if not wanted.isdisjoint(node.outputs):
                wanted.update(node.inputs)
                chosen.append((node, proto))
        return chosen[::-1]

    def _require_operators(self) -> None:
        """Refuses, before anything is computed, a file with operators that are not read."""
        depending, unknown = {self._file.input_name}, dict[str, str]()
        for node, _ in self._needed():
            if depending.isdisjoint(node.inputs) or node.op in _SIZES:
                continue
            depending.update(name for name in node.outputs if name)
            if node.op not in OPERATORS:
                unknown.setdefault(node.op, node.name)
        if unknown:
            shown = ", ".join(f"{op} ({name})" for op, name in unknown.items())
            raise ModelError(f"There is no reader for the operator {shown}; {SUPPORTED}.")

    def _read(self, node: Node, proto: Any) -> None:
        results: Sequence[Any]
        if all(name in self._known for name in node.inputs if name):
            results = folded(node, proto, [self._known.get(name) for name in node.inputs])
            if not self._learned.isdisjoint(node.inputs):
                self._learned.update(node.outputs)
        else:
            node = self._with_bias(node)
            with _explained(node):
                results = self._computed(node)
        for name, result in zip(node.outputs, results, strict=False):
            if isinstance(result, Examples):
                _require_size(f"{node.op} ({node.name})", result.shape)
                self._values[name] = result
            elif name:
                self._known[name] = result

    def _with_bias(self, node: Node) -> Node:
        """A product and the constant vector that is added to it alone, as one: so torch's layers have it."""
        product = node.outputs[0]
        readers = [other for other, _ in self._file.nodes if product in other.inputs]
        if node.op != "MatMul" or product == self._file.output_name or [r.op for r in readers] != ["Add"]:
            return node
        bias = next((name for name in readers[0].inputs if name != product), "")
        matrix, vector = self._known.get(node.inputs[1]), self._known.get(bias)
        if matrix is None or vector is None or matrix.ndim != 2 or vector.shape != matrix.shape[1:]:
            return node
        return node._replace(inputs=(*node.inputs, bias), outputs=readers[0].outputs)

    def _computed(self, node: Node) -> Sequence[Any]:
        operator, network = OPERATORS[node.op], self._network
        arguments = self._arguments(node, operator)
        given = [network._argument(argument, self._values) for argument in arguments]
        with self._shapes_alone, torch.no_grad():
            results = _results(operator.compute(node, *given))
        if node.op not in _SIZES:
            self._steps.append(_Step(node, arguments))
        return results

    def _arguments(self, node: Node, operator: Operator) -> list[_Value | _Held | Known | None]:
        known = [self._constant(name) for name in node.inputs]
        if operator.layer is not None and node.inputs[0] in self._values:
            others = [value is not None or not name for name, value in zip(node.inputs, known, strict=True)]
            layer = (
                operator.layer(node, self._values[node.inputs[0]], self._weights, known[1:])
                if all(others[1:])
                else None
            )
            if layer is not None:
                return [_Value(node.inputs[0]), _Held(self._layer(node, layer))]
        return [self._argument(node, operator, place) for place in range(len(node.inputs))]

    def _argument(self, node: Node, operator: Operator, place: int) -> _Value | _Held | Known | None:
        name = node.inputs[place]
        if not name:
            return None
        if name not in self._known:
            if name not in self._values:
                raise node.refusal(f"takes {name}, which no operation that is read gives.")
            if place in operator.known:
                raise node.refusal(
                    f"must have a constant for {name}, but that depends on the network's input."
                )
            return _Value(name)
        if place in operator.known:
            return self._known[name]
        return _Held(self._tensor(name, is_fixed=place in operator.fixed))

    def _constant(self, name: str) -> Known | None:
        """A constant in the precision that the network computes in; None where it is none."""
        value = self._known.get(name)
        if (
            value is None
            or not np.issubdtype(value.dtype, np.floating)
            or value.dtype == self._file.precision
        ):
            return value
        return self._converted.setdefault(id(value), value.astype(self._file.precision))

    def _layer(self, node: Node, layer: nn.Module) -> str:
        weight = node.inputs[1]
        name = self._free(re.sub(r"[._:/]*(weight|kernel|scale)$", "", weight) or node.name)
        self._network.add_module(name, layer.eval())
        return name

    def _tensor(self, name: str, *, is_fixed: bool) -> str:
        """The parameter or buffer of a constant, made once; one number alone is a scale, which stays."""
        value = self._constant(name)
        assert value is not None
        if id(value) not in self._held:
            own = self._held[id(value)] = self._free(name)
            is_weight = np.issubdtype(value.dtype, np.floating) and value.size > 1 and name in self._learned
            if is_weight and not is_fixed:
                self._network.register_parameter(own, self._weights.of(value))
            else:
                self._network.register_buffer(own, torch.tensor(value))
        return self._held[id(value)]

    def _free(self, name: str) -> str:
        """A name like one of the file's that no attribute has."""
        own = re.sub(r"\W+", "_", name).strip("_") or "constant"
        own = f"_{own}" if own[0].isdigit() else own
        return next(candidate for candidate in _candidates(own) if not hasattr(self._network, candidate))


def _candidates(name: str) -> Iterator[str]:
    yield name
    number = 1
    while True:
        number += 1
        yield f"{name}_{number}"


@contextmanager
def _explained(node: Node) -> Iterator[None]:
    """Says of whatever fails inside which node it is."""
    was_silent, _TORCH_LOG.disabled = _TORCH_LOG.disabled, True  # it prints a traceback of what fails
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # of torch and NumPy, for whatever does not fit
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise node.refusal(f"does not fit its inputs: {said}") from error
    finally:
        _TORCH_LOG.disabled = was_silent


def _require_size(what: str, shape: Shape) -> None:
    if count(shape) > LARGEST:
        raise ModelError(
            f"{what} gives {shape}, more than {LARGEST} numbers an example; the file is damaged."
        )
