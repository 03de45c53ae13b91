"""Writes ONNX by hand, node by node, with constants as the different frameworks put them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Writer"]

Constants = Literal["initializers", "nodes", "inputs"]


class Writer:
    """A graph that grows by a node at a time.

    Args:
        opset: Version of the operators.
        shape: Of the input, with its batch, if it has one: a number or a name.
        constants: Where tensors go: ``initializers``, ``nodes`` of the operator Constant, or initialisers
            that are ``inputs`` too, as files before IR version 4 have them.
    """

    def __init__(
        self, opset: int, shape: Sequence[int | str], *, constants: Constants = "initializers"
    ) -> None:
        self.opset, self.constants = opset, constants
        self.input = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        self.value = "x"
        """Where the graph has come to: what the next node takes first."""
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []

    def tensor(self, values: ArrayLike, dtype: Any = np.float32) -> str:
        """The name of a constant."""
        name = f"c{len(self._nodes)}_{len(self._initializers)}"
        tensor = numpy_helper.from_array(np.asarray(values, dtype=dtype), name)
        if self.constants == "nodes":
            self._nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self._initializers.append(tensor)
        return name

    def integers(self, *values: int) -> str:
        """The name of a constant of integers, such as axes."""
        return self.tensor(values, np.int64)

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Adds a node and goes on from its first output.

        Args:
            op: The operator.
            *inputs: Its inputs.
            outputs: How many it has.
            **attributes: Of the operator.

        Returns:
            Their names.
        """
        names = [f"{op.lower()}{len(self._nodes)}_{index}" for index in range(outputs)]
        self._nodes.append(helper.make_node(op, inputs, names, **attributes))
        self.value = names[0]
        return names

    def then(self, op: str, *more: str, **attributes: Any) -> Writer:
        """Adds a node that takes what the graph has come to, and more inputs after it."""
        self.node(op, self.value, *more, **attributes)
        return self

    def by_axes(self, op: str, *axes: int, since: int, **attributes: Any) -> Writer:
        """Adds a node whose axes were an attribute before an opset, and are an input since."""
        if self.opset >= since:
            return self.then(op, self.integers(*axes), **attributes)
        return self.then(op, axes=axes, **attributes)

    def model(self, shape: Sequence[int | str]) -> onnx.ModelProto:
        """The whole file; its output has this shape."""
        output = helper.make_tensor_value_info(self.value, TensorProto.FLOAT, shape)
        inputs = [self.input]
        if self.constants == "inputs":
            inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in self._initializers]
        graph = helper.make_graph(self._nodes, "by_hand", inputs, [output], self._initializers)
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="by hand")
        model.ir_version = 3 if self.constants == "inputs" else 4 if self.opset == 9 else 8
        if self.opset > 18:
            model.ir_version = 10
        onnx.checker.check_model(model, full_check=True)
        return model
