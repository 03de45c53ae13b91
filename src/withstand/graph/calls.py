"""One operation of a traced network, with all that it is called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from withstand.graph.domain import Domain
from withstand.graph.rule_registry import (
    Site,
    UnsupportedOperationError,
    has_hooks,
    name_of,
    rule_of_function,
    rule_of_module,
)
from withstand.graph.tracing import Trace
from withstand.operators import OperatorNorms


class Call(NamedTuple):
    """One node with the values that it is called with.

    Attributes:
        trace: The graph that it is of.
        node: What is called.
        arguments: Its positional arguments, of which some may be domains.
        options: Its named arguments.
    """

    trace: Trace
    node: fx.Node
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]

    @property
    def takes_domain(self) -> bool:
        """Whether a rule is wanted; else the node is computed as it stands."""
        return self.takes(Domain)

    @property
    def layer(self) -> nn.Module | None:
        """The layer that is called, where one is."""
        return self._module if self.node.op == "call_module" else None

    @property
    def _module(self) -> nn.Module:
        return self.trace.root.get_submodule(str(self.node.target))

    @property
    def input(self) -> Any:
        """What is called with, of a layer that takes one value."""
        return self.arguments[0] if self.arguments else self.options["input"]

    @property
    def operation(self) -> Callable[..., Any]:
        """The layer's class, the function, or the method."""
        if self.layer is not None:
            return type(self.layer)
        if self.node.op == "call_method":
            holder = Tensor if isinstance(self.arguments[0], Domain) else type(self.arguments[0])
            method: Callable[..., Any] = getattr(holder, str(self.node.target))
            return method
        assert callable(self.node.target)
        return self.node.target

    def apply_rule(self, norms: OperatorNorms) -> Any:
        """What the rule makes of the sets.

        Raises:
            UnsupportedOperationError: there is no rule, or it does not cover this use.
        """
        layer = self.layer
        path = self.trace.paths.get(self.node.name, "")
        site = Site(self.node.name, path, name_of(self.operation), norms)
        if layer is not None and has_hooks(layer):
            raise site.refusal(
                "cannot see forward hooks, and the layer has some. Remove them; "
                "torch.nn.utils.parametrizations serves weight and spectral normalisation without hooks."
            )
        rule = rule_of_function(self.operation) if layer is None else rule_of_module(layer)
        if rule is None:
            raise UnsupportedOperationError(
                f"There is no rule for {site.operation} ({site.place}), so neither bounds nor moments "
                "pass through this model. Write one and register it by "
                f"withstand.domains.register({site.operation}), or take another operation."
            )
        arguments = (site, *([] if layer is None else [layer]), *self.arguments)
        try:
            _signature(rule).bind(*arguments, **self.options)
        except TypeError as error:
            raise site.refusal(f"does not know all its arguments here: {error}.") from error
        return rule(*arguments, **self.options)

    def compute(self) -> Any:
        """What the node gives where all its arguments are plain values."""
        match self.node.op:
            case "call_module":
                return self._module(*self.arguments, **self.options)
            case "call_method":
                holder, *arguments = self.arguments
                return getattr(holder, str(self.node.target))(*arguments, **self.options)
            case "get_attr":
                return attrgetter(str(self.node.target))(self.trace.root)
        assert callable(self.node.target)
        return self.node.target(*self.arguments, **self.options)

    def compute_on_centers(self) -> Any:
        """What the node gives for the centers of its sets."""
        return self.mapped(_center_of).compute()

    def mapped(self, function: Callable[[Any], Any]) -> Call:
        """The same operation, called with a function of each of its values."""
        arguments, options = fx.node.map_aggregate((self.arguments, dict(self.options)), function)
        return self._replace(arguments=arguments, options=options)

    def takes(self, kind: type) -> bool:
        """Whether one of its values is of a kind."""
        return any(isinstance(value, kind) for value in _leaves([self.arguments, self.options]))


_signature = cache(inspect.signature)


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
