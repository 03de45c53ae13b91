"""Turns a network into the graph of its operations."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, fx, nn
from typing_extensions import override

from withstand import bayes
from withstand.graph.rule_registry import has_hooks, is_plain, rule_of_module
from withstand.types import ModelError

_PLAIN = (bool, int, float, str)

Structure: TypeAlias = tuple[Any, ...]
"""All of a model that its graph may depend on; equal where the graph is the same."""


class Root(nn.Module):
    """A network as the only part of another.

    Tracers take the ``forward`` of their root's class and no more; of a part they also see hooks,
    default arguments, and a ``forward`` that was set on the object.

    Args:
        model: Maps one tensor to another.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @override
    def forward(self, images: Tensor) -> Any:
        return self.model(images)


class Trace(NamedTuple):
    """The operations of a network.

    Attributes:
        root: Holds the network, and the constants that were found on the way.
        graph: One node an operation.
        paths: Name of a node -> the part of the network that it is in, such as ``layers.0``.
    """

    root: Root
    graph: fx.Graph
    paths: dict[str, str]

    @property
    def output(self) -> fx.Node:
        """The node that returns the result."""
        return self.graph.output_node()

    def spent(self) -> dict[fx.Node, list[fx.Node]]:
        """Node -> those that no later node reads."""
        last_readers = {read: node for node in self.graph.nodes for read in node.all_input_nodes}
        spent: dict[fx.Node, list[fx.Node]] = {node: [] for node in self.graph.nodes}
        for read, reader in last_readers.items():
            spent[reader].append(read)
        return spent


class _Tracer(fx.Tracer):
    """Stops at the layers of torch and at whatever has a rule; looks into all else."""

    proxy_buffer_attributes = True  # what is computed of buffers is computed anew at each run

    @override
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_torch = super().is_leaf_module(m, module_qualified_name) and "forward" not in vars(m)
        return is_torch or rule_of_module(m) is not None


def trace(model: nn.Module) -> Trace:
    """The graph of a network.

    Args:
        model: Any module that ``torch.fx`` can trace.

    Raises:
        ModelError: it cannot be traced, or its weights are random.
    """
    bayes.require_certain(model, to="pass bounds or moments through it")
    root, tracer = Root(model), _Tracer()
    try:
        graph = tracer.trace(root)
    except Exception as error:
        raise ModelError(
            f"The model {type(model).__name__} cannot be traced: {str(error).rstrip('. ')}. "
            "Bounds need a forward whose steps do not depend on the values of its input. Move what "
            "does into a module of its own and give that a rule by withstand.domains.register."
        ) from error
    scopes = tracer.node_name_to_scope.items()
    paths = {name: scope[0].removeprefix("model").removeprefix(".") for name, scope in scopes}
    return Trace(root, graph, paths)


def structure(model: nn.Module) -> Structure:
    """What tells whether a network's graph is still the same: its layers, modes, flags and hooks."""
    return tuple(
        (
            name,
            type(module),
            has_hooks(module),
            tuple((key, value) for key, value in vars(module).items() if isinstance(value, _PLAIN)),
        )
        for name, module in model.named_modules()
    )


def last_linear(traced: Trace) -> fx.Node | None:
    """The linear layer that gives the logits, where one does."""
    node = traced.output.args[0]
    while isinstance(node, fx.Node) and node.op == "call_module":
        module = traced.root.get_submodule(str(node.target))
        if has_hooks(module):
            return None
        if is_plain(module, nn.Linear):
            return node
        if not is_plain(module, nn.Identity):
            return None
        node = node.args[0] if node.args else None
    is_function = isinstance(node, fx.Node) and node.target is torch.nn.functional.linear
    return node if isinstance(node, fx.Node) and is_function else None
