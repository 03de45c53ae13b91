"""Takes a domain through a network: one walk over its traced graph, one rule an operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, fx, nn
from typing_extensions import override

from withstand.domains.base import Domain
from withstand.domains.box import Box
from withstand.domains.registry import (
    Rule,
    Site,
    UnsupportedOperationError,
    rule_of_function,
    rule_of_module,
)
from withstand.spectral import GuaranteedNorms, OperatorNorms
from withstand.types import ModelError

__all__ = ["LastLayer", "Program", "propagate", "unsupported"]


class LastLayer(NamedTuple):
    """What the logits are made of: ``weight z + bias`` for the members z of a set.

    Attributes:
        features: The set, of members (batch, hidden).
        weight: Tensor (classes, hidden).
        bias: Tensor (classes,), or None.
    """

    features: Domain
    weight: Tensor
    bias: Tensor | None

    @property
    def logits(self) -> Tensor:
        """Of the features' centers, (batch, classes)."""
        return nn.functional.linear(self.features.center, self.weight, self.bias)

    def differences(self, labels: Tensor) -> Tensor:
        """The worst of each logit minus the true one.

        Args:
            labels: True classes (batch,).

        Returns:
            Tensor (batch, classes): upper bounds over the whole set; 0 for the true class.
        """
        logits = self.logits
        return (
            logits - logits.gather(1, labels[:, None]) + self.features.worst_differences(self.weight, labels)
        )


def propagate(model: nn.Module, value: Domain, *, norms: OperatorNorms | None = None) -> Domain:
    """The image of a set of inputs under a network.

    Modes stay as they are: a BatchNorm in train mode uses the statistics of the set's centers.

    Args:
        model: Any module that ``torch.fx`` can trace; its layers must have rules.
        value: Members are the model's inputs (batch, …).
        norms: Where operator norms come from; guaranteed bounds where None.

    Returns:
        A set of the same domain that holds every output.

    Raises:
        UnsupportedOperationError: there is no rule for an operation.
        ModelError: the model cannot be traced.
    """
    return Program(model).run(value, norms or GuaranteedNorms())


def unsupported(model: nn.Module, images: Tensor) -> list[str]:
    """All that keeps sets from passing through a network, one message each; none where they can.

    Args:
        model: Any module.
        images: Some of its inputs, (batch, …).
    """
    try:
        program = Program(model)
    except ModelError as error:
        return [str(error)]
    with torch.no_grad():
        return program.faults(images)


class _Tracer(fx.Tracer):
    """Stops at the layers of torch and at whatever has a rule; looks into all else."""

    @override
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return rule_of_module(m) is not None or super().is_leaf_module(m, module_qualified_name)


class Program:
    """A network's traced graph, ready to take domains through.

    It reads the model's layers and weights anew at each run; only a change of the graph itself
    needs a new one (see ``fits``).

    Args:
        model: Any module that ``torch.fx`` can trace.

    Raises:
        ModelError: the model cannot be traced.
    """

    def __init__(self, model: nn.Module) -> None:
        self._structure = _structure(model)
        # A tracer looks into its root, also where that is a single layer with a rule.
        self._root = model if rule_of_module(model) is None else nn.Sequential(model)
        tracer = _Tracer()
        try:
            self._graph = tracer.trace(self._root)
        except Exception as error:
            raise ModelError(
                f"The model {type(model).__name__} cannot be traced: {error} "
                "Bounds need a forward whose steps do not depend on the values of its input. Move what "
                "does into a module of its own and give that a rule by withstand.domains.register."
            ) from error
        self._paths = {name: scope[0] for name, scope in tracer.node_name_to_scope.items()}
        self._output = next(node for node in self._graph.nodes if node.op == "output")
        last_users = {read: node for node in self._graph.nodes for read in node.all_input_nodes}
        self._spent: dict[fx.Node, list[fx.Node]] = {node: [] for node in self._graph.nodes}
        for read, user in last_users.items():
            self._spent[user].append(read)

    def fits(self, model: nn.Module) -> bool:
        """Whether the graph is still that of a model: the same layers, in the same modes."""
        return self._structure == _structure(model)

    def run(self, value: Domain, norms: OperatorNorms) -> Domain:
        """The image of a set under the whole network.

        Raises:
            UnsupportedOperationError: there is no rule for an operation.
            ModelError: the model's output is not one tensor.
        """
        (result,) = self._arguments_of(self._output, value, norms, _refuse)
        if not isinstance(result, Domain):
            raise ModelError(
                f"Expected one output that depends on the input, but the model returns a "
                f"{type(result).__name__}; wrap it in a module that returns the logits alone."
            )
        return result

    def run_to_last_layer(self, value: Domain, norms: OperatorNorms) -> LastLayer:
        """The image of a set before the last linear layer, and that layer.

        A network that ends in something else is given the identity for its last layer.

        Raises:
            UnsupportedOperationError: there is no rule for an operation.
            ModelError: the output is not (batch, classes).
        """
        last = _last_linear(self._graph, self._output, self._root)
        if last is not None:
            features, *rest = self._arguments_of(last, value, norms, _refuse)
            if isinstance(features, Domain) and len(features.shape) == 2:
                return LastLayer(features, *_weight_and_bias(last, self._root, rest))
        logits = self.run(value, norms)
        if len(logits.shape) != 2:
            raise ModelError(
                f"Expected logits (batch, classes), but the model gives {tuple(logits.shape)}; "
                "flatten or pool before its last layer."
            )
        return LastLayer(logits, torch.eye(logits.shape[1]).to(logits.center), None)

    def faults(self, images: Tensor) -> list[str]:
        """All that keeps sets from passing through, one message each."""
        found: list[str] = []

        def note(error: ModelError, compute: Callable[[], Any]) -> Any:
            found.append(str(error))
            result = compute()
            return Box(result, result) if isinstance(result, Tensor) else result

        self._arguments_of(self._output, Box(images, images), GuaranteedNorms(), note)
        return found

    def _arguments_of(
        self, stop: fx.Node, value: Domain, norms: OperatorNorms, on_fault: _OnFault
    ) -> tuple[Any, ...]:
        """Walks the graph until a node, and gives what that node is called with."""
        values: dict[fx.Node, Any] = {}
        is_bound = False
        for node in self._graph.nodes:
            arguments = fx.node.map_arg(node.args, values.__getitem__)
            options = fx.node.map_arg(node.kwargs, values.__getitem__)
            if node is stop:
                return (*arguments, *options.values())
            if node.op == "placeholder" and not is_bound:
                values[node], is_bound = value, True
            else:
                call = _Call(self._root, node, arguments, options)
                values[node] = self._result(call, norms, on_fault)
            for spent in self._spent[node]:
                del values[spent]
        raise AssertionError("a graph ends in its output")

    def _result(self, call: _Call, norms: OperatorNorms, on_fault: _OnFault) -> Any:
        if not call.takes_domain:
            return call.compute()
        path = self._paths.get(call.node.name, "")
        try:
            return call.rule(path)(Site(call.node.name, path, norms))
        except ModelError as error:
            return on_fault(error, call.compute_on_centers)


class _Call(NamedTuple):
    """One node with the values that it is called with."""

    root: nn.Module
    node: fx.Node
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]

    @property
    def takes_domain(self) -> bool:
        return any(isinstance(value, Domain) for value in _leaves([self.arguments, self.options]))

    def rule(self, path: str) -> Callable[[Site], Any]:
        """The rule with all but the site filled in.

        Raises:
            UnsupportedOperationError: there is none.
        """
        if self.node.op == "call_module":
            module = self.root.get_submodule(str(self.node.target))
            rule = rule_of_module(module)
            if module._forward_hooks or module._forward_pre_hooks:
                raise UnsupportedOperationError(
                    f"The layer {self.node.target} ({type(module).__name__}) has forward hooks, which bounds "
                    "cannot see. Remove them; torch.nn.utils.parametrizations serves weight and spectral "
                    "normalisation without hooks."
                )
            if rule is None:
                raise _no_rule(self.node, str(self.node.target), type(module))
            return partial(_apply, rule, (module, *self.arguments), self.options)
        function = _function_of(self.node)
        rule = rule_of_function(function)
        if rule is None:
            raise _no_rule(self.node, path, function)
        return partial(_apply, rule, self.arguments, self.options)

    def compute(self) -> Any:
        """What the node gives where all its arguments are plain values."""
        return getattr(fx.Interpreter(self.root, graph=fx.Graph()), self.node.op)(
            self.node.target, self.arguments, dict(self.options)
        )

    def compute_on_centers(self) -> Any:
        """What the node gives for the centers of its sets."""
        arguments, options = fx.node.map_aggregate((self.arguments, dict(self.options)), _center_of)
        return self._replace(arguments=arguments, options=options).compute()


_OnFault: TypeAlias = Callable[[ModelError, Callable[[], Any]], Any]


def _apply(rule: Rule, arguments: tuple[Any, ...], options: Mapping[str, Any], site: Site) -> Any:
    return rule(site, *arguments, **options)


def _refuse(error: ModelError, compute: Callable[[], Any]) -> Any:
    raise error


def _no_rule(node: fx.Node, path: str, operation: Any) -> UnsupportedOperationError:
    name = (
        f"{getattr(operation, '__module__', None) or 'torch'}.{getattr(operation, '__qualname__', operation)}"
    )
    place = f"in {path!r}" if path else "in the model's own forward"
    return UnsupportedOperationError(
        f"There is no rule for {name} (node {node.name!r}, {place}), so nothing can be proven of this "
        f"model. Write one and register it by withstand.domains.register({name}), or take another layer."
    )


def _function_of(node: fx.Node) -> Callable[..., Any]:
    if node.op == "call_method":
        method: Callable[..., Any] = getattr(Tensor, str(node.target))
        return method
    assert callable(node.target)
    return node.target


def _center_of(value: Any) -> Any:
    return value.center if isinstance(value, Domain) else value


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _structure(model: nn.Module) -> tuple[tuple[str, type[nn.Module], bool], ...]:
    return tuple((name, type(module), module.training) for name, module in model.named_modules())


def _last_linear(graph: fx.Graph, output: fx.Node, root: nn.Module) -> fx.Node | None:
    """The linear layer that gives the logits, where one does."""
    node = output.args[0]
    while isinstance(node, fx.Node) and node.op == "call_module":
        module = root.get_submodule(str(node.target))
        if isinstance(module, nn.Linear) and rule_of_module(module) is not None:
            return node
        if not isinstance(module, nn.Identity):
            return None
        node = node.args[0]
    is_function = isinstance(node, fx.Node) and node.target is nn.functional.linear
    return node if isinstance(node, fx.Node) and is_function else None


def _weight_and_bias(node: fx.Node, root: nn.Module, rest: Sequence[Any]) -> tuple[Tensor, Tensor | None]:
    if node.op == "call_module":
        layer = root.get_submodule(str(node.target))
        assert isinstance(layer, nn.Linear)
        return layer.weight, layer.bias
    weight, *bias = rest
    return weight, bias[0] if bias else None
