"""One operation of a captured network, with all that it is called with."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from withstand.core.deadlines import require_time
from withstand.graph.capture import Capture, attribute
from withstand.graph.domain import Domain
from withstand.graph.layout import Layout, layout_of, shape_at, size_at
from withstand.graph.rule_registry import Site, UnsupportedOperationError, name_of, rule_of
from withstand.operators import OperatorNorms


class Constants:
    """What nodes give that do not depend on the images but for the size of their batch; during one walk.

    Args:
        capture: The graph.
        model: That it is of, whose tensors are read.
    """

    def __init__(self, capture: Capture, model: nn.Module) -> None:
        self.model = model
        self._capture = capture
        self._values: dict[tuple[fx.Node, int], Any] = {}

    def of(self, node: fx.Node, batch: int) -> Any:
        """What a node gives for a batch of that size."""
        key = node, batch
        if key not in self._values:
            self._values[key] = self._computed(node, batch)
        return self._values[key]

    def paths(self, node: fx.Node) -> set[str]:
        """The parameters, buffers and plain tensors that a node is computed of."""
        known = self._capture.constants.get(node)
        if known is not None:
            return set() if known.path is None else {known.path}
        if _makes_constant(node):
            return set()
        return {path for read in node.all_input_nodes for path in self.paths(read)}

    def _computed(self, node: fx.Node, batch: int) -> Any:
        known = self._capture.constants.get(node)
        if known is not None:
            return known.read(self.model)
        value = self._operation(node, batch)
        # What a network keeps in a buffer, it takes from there without gradient.
        return value.detach() if node in self._capture.updates.values() else value

    def _operation(self, node: fx.Node, batch: int) -> Any:
        size = node.meta.get("val")
        if isinstance(size, torch.SymInt | int):
            return size_at(size, batch)
        of = _blank if _makes_constant(node) else self.of
        arguments, options = fx.node.map_arg((node.args, node.kwargs), lambda part: of(part, batch))
        assert callable(node.target)
        return node.target(*arguments, **options)


def _makes_constant(node: fx.Node) -> bool:
    """Whether a node takes no more from what it is called with than shape, precision and device."""
    return getattr(node.target, "overloadpacket", None) in _FACTORIES


_ATEN = torch.ops.aten
_FACTORIES = {
    *(_ATEN.zeros_like, _ATEN.ones_like, _ATEN.full_like, _ATEN.empty_like),
    *(_ATEN.new_zeros, _ATEN.new_ones, _ATEN.new_full, _ATEN.new_empty),
}


def _blank(node: fx.Node, batch: int) -> Any:
    """A size, or an empty tensor like what a node gives, for a batch of that size."""
    value = node.meta["val"]
    if isinstance(value, Tensor):
        return torch.empty(shape_at(value.shape, batch), dtype=value.dtype, device=value.device)
    return size_at(value, batch)


class Step:
    """A node of the graph that depends on the images, and what is known of it before any walk.

    Args:
        node: The node.
        inputs: Those that it reads and that depend on the images.
    """

    def __init__(self, node: fx.Node, inputs: list[fx.Node]) -> None:
        self.node = node
        self.inputs = inputs

    @cached_property
    def layouts(self) -> dict[fx.Node, Layout]:
        """Of each of its inputs."""
        return {node: layout_of(node.meta["val"]) for node in self.inputs}

    @cached_property
    def outputs(self) -> list[Layout]:
        """Of what it gives."""
        given = self.node.meta["val"]
        values = given if isinstance(given, tuple | list) else [given]
        return [layout_of(value) for value in values if isinstance(value, Tensor)]

    @cached_property
    def keeps_precision(self) -> bool:
        """Whether it gives what is as precise as what it takes."""
        values = [node.meta["val"] for node in (*self.inputs, self.node)]
        return len({value.dtype for value in values if isinstance(value, Tensor)}) == 1

    @cached_property
    def operation(self) -> str:
        """The operator's name, such as ``aten.conv2d``."""
        return name_of(self.node.target)

    @cached_property
    def path(self) -> str:
        """Where in the model it stands, such as ``layers.0``."""
        return (self._place[0] + ".").removeprefix("model.").removesuffix(".")

    @cached_property
    def kind(self) -> str:
        """The torch layer that it is a part of, such as ``Conv2d``, else the operator's name."""
        module = self._place[1]
        if module.startswith("torch.nn.modules.") and ".container." not in module:
            return module.rpartition(".")[2]
        return self.operation.rpartition(".")[2]

    @cached_property
    def _place(self) -> tuple[str, str]:
        stack = [*self.node.meta.get("nn_module_stack", {}).values()]
        path, kind = stack[-1] if stack else ("", "")
        return str(path), kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


def steps_of(captured: Capture) -> list[Step]:
    """The nodes that depend on the images' values, in order."""
    values, steps = {captured.images}, []
    for node in captured.graph.nodes:
        inputs = [read for read in node.all_input_nodes if read in values]
        # Sizes hang on the number of images alone.
        is_size = isinstance(node.meta.get("val"), torch.SymInt | int | None)
        if node.op == "call_function" and inputs and not is_size and not _makes_constant(node):
            values.add(node)
            steps.append(Step(node, inputs))
    return steps


class Call(NamedTuple):
    """One step with the values that it is called with.

    Attributes:
        constants: Gives what does not depend on the images.
        step: What is called.
        values: Node -> what was made of the images there: a domain, or whatever a walk takes along.
    """

    constants: Constants
    step: Step
    values: Mapping[fx.Node, Any]

    @property
    def node(self) -> fx.Node:
        """The node that is called."""
        return self.step.node

    @property
    def takes_domain(self) -> bool:
        """Whether a rule is wanted; else the node is computed as it stands."""
        return self.takes(Domain)

    @property
    def input(self) -> Any:
        """The first value that depends on the images."""
        return next(iter(self.values.values()))

    @property
    def is_training(self) -> bool:
        """Whether the layer that it stands in is in training mode."""
        model, path = self.constants.model, self.step.path
        module: nn.Module = attribute(model, path) if path else model
        return module.training

    def constant_paths(self) -> set[str]:
        """The parameters, buffers and plain tensors that it takes beside its values."""
        others = (node for node in self.node.all_input_nodes if node not in self.values)
        return {path for node in others for path in self.constants.paths(node)}

    def resolved(self, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """All its arguments, positional and named, for a batch of that size."""

        def value_of(node: fx.Node) -> Any:
            return self.values[node] if node in self.values else self.constants.of(node, batch)

        arguments, options = fx.node.map_arg((self.node.args, dict(self.node.kwargs)), value_of)
        return arguments, options

    def apply_rule(self, norms: OperatorNorms) -> Any:
        """What the rule makes of the sets.

        Args:
            norms: Where operator norms come from.

        Raises:
            UnsupportedOperationError: there is no rule, or it does not cover this use.
        """
        step, rule = self.step, rule_of(self.node.target)
        site = Site(
            self.node.name,
            step.path,
            step.operation,
            norms,
            [*step.layouts.values()],
            step.outputs,
            self.is_training,
            step.keeps_precision,
        )
        if rule is None:
            raise UnsupportedOperationError(
                f"There is no rule for {site.operation} ({site.place}), so neither bounds nor moments pass "
                "through this model. Write one and register it by "
                f"withstand.domains.register(torch.ops.{site.operation}), or take another operation."
            )
        if site.outputs and site.outputs[0].batch is None:
            raise site.refusal("gives one value for all images of a batch; none is bounded by itself then.")
        if None in self.values.values():
            raise site.refusal("takes what has no bounds, such as the indices of a maximum; leave it out.")
        arguments, options = self.resolved(batch=1)
        try:
            _signature(rule).bind(site, *arguments, **options)
        except TypeError as error:
            raise site.refusal(f"does not know all its arguments here: {error}.") from error
        return rule(site, *arguments, **options)

    def compute(self) -> Any:
        """What the node gives where its values are tensors as the graph has them."""
        batch = next(
            (
                value.shape[layout.batch] // layout.share
                for value, layout in zip(self.values.values(), self.step.layouts.values(), strict=True)
                if layout.batch is not None
            ),
            1,
        )
        arguments, options = self.resolved(batch)
        assert callable(self.node.target)
        return self.node.target(*arguments, **options)

    def compute_on_centers(self) -> Any:
        """What the node gives for the centers of its sets."""
        return self.unstored(_center_of).compute()

    def unstored(self, tensor_of: Callable[[Any], Tensor]) -> Call:
        """The same operation, called with a tensor for each of its values, as the graph has them.

        Args:
            tensor_of: From a value to its tensor as domains keep it, (batch, …).
        """
        layouts = self.step.layouts
        return self._replace(
            values={node: layouts[node].unstored(tensor_of(value)) for node, value in self.values.items()}
        )

    def mapped(self, function: Callable[[Any], Any]) -> Call:
        """The same operation, called with a function of each of its values."""
        return self._replace(values={node: function(value) for node, value in self.values.items()})

    def takes(self, kind: type) -> bool:
        """Whether one of its values is of a kind."""
        return any(isinstance(value, kind) for value in self.values.values())


def needed(steps: Sequence[Step], nodes: Sequence[fx.Node]) -> list[Step]:
    """Those of some steps that nodes depend on, these included; in order."""
    wanted, chosen = set(nodes), []
    for step in reversed(steps):
        if step.node in wanted:
            wanted.update(step.inputs)
            chosen.append(step)
    return chosen[::-1]


def walk(
    steps: Sequence[Step],
    constants: Constants,
    values: Mapping[fx.Node, Any],
    result_of: Callable[[Call], Any],
    keep: Iterable[fx.Node] = (),
) -> dict[fx.Node, Any]:
    """Goes through some steps of a graph in order, and leaves to others what each gives.

    Args:
        steps: The steps.
        constants: Gives what does not depend on the images.
        values: What the first of them read.
        result_of: From an operation, and what it is called with, to its result.
        keep: Nodes whose values are wanted, beside those that no step reads; others are dropped on the way.

    Returns:
        The values that are left.
    """
    known, kept = dict(values), set(keep)
    last_readers = {read: step.node for step in steps for read in step.inputs}
    for step in steps:
        require_time()
        inputs = {node: known[node] for node in step.inputs}
        if step.node.target is operator.getitem:  # one of several results
            known[step.node] = known[step.inputs[0]][step.node.args[1]]
        else:
            known[step.node] = result_of(Call(constants, step, inputs))
        for read in step.inputs:
            if last_readers[read] is step.node and read not in kept:
                del known[read]
    return known


_signature = cache(inspect.signature)


def _center_of(value: Any) -> Tensor:
    return value.center if isinstance(value, Domain) else value
