"""Which rule takes a domain through which layer, function or method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from withstand.operators import LinearOperator, OperatorNorms, Shape
from withstand.types import ModelError


class UnsupportedOperationError(ModelError):
    """An operation of the network that no rule covers."""


@dataclass(frozen=True)
class Site:
    """The place in the network where a rule is applied.

    Args:
        name: The node of the traced graph, unique in the network.
        path: Where in the model the operation stands, such as ``layers.0``.
        operation: The layer or function, such as ``torch.nn.Conv2d``.
        norms: Where operator norms come from.
    """

    name: str
    path: str
    operation: str
    norms: OperatorNorms

    def norm(self, operator: LinearOperator, input_shape: Shape) -> Tensor:
        """How far an operator can stretch: what ``Domain.affine`` asks for."""
        return self.norms.of(operator, input_shape, self.name)

    @property
    def place(self) -> str:
        """Node and path, for people to read."""
        where = f"in {self.path!r}" if self.path else "in the model's own forward"
        return f"node {self.name!r}, {where}"

    def refusal(self, reason: str) -> UnsupportedOperationError:
        """The error of a rule that does not cover how its operation is used here.

        Args:
            reason: What is wrong and what to do, going on from "The rule of … ".
        """
        return UnsupportedOperationError(
            f"The rule of {self.operation} ({self.place}) {reason} A rule of your own replaces it: "
            f"withstand.domains.register({self.operation})."
        )


Rule: TypeAlias = Callable[..., Any]
"""Of a module: (site, module, *arguments); of a function or method: (site, *arguments)."""
_AnyRule = TypeVar("_AnyRule", bound=Rule)

_MODULES: dict[type[nn.Module], Rule] = {}
_FUNCTIONS: dict[Callable[..., Any], Rule] = {}

# What a layer computes by; a convolution's forward leaves the work to another method.
_COMPUTING = ("__call__", "forward", "_conv_forward")
_NAMESPACES = {
    "torch.nn": nn,
    "torch.nn.functional": nn.functional,
    "torch": torch,
    "torch.Tensor": Tensor,
}


def register(*operations: type[nn.Module] | Callable[..., Any]) -> Callable[[_AnyRule], _AnyRule]:
    """Makes a function the rule of layers, functions or tensor methods, in every domain.

    The rule is called with the ``Site``, the layer where it is one, and the arguments as the network
    gives them, of which one or several are a ``Domain``. It must return a set that holds all that
    the operation can make of the sets' members:

        @withstand.domains.register(Scale)
        def scale(site, layer, value):
            return value.affine(withstand.operators.Diagonal(layer.factor), None, site.norm)

    Args:
        operations: Layer classes, functions such as ``torch.relu``, methods such as
            ``torch.Tensor.relu``. A subclass needs a rule of its own where it has a ``forward`` of its
            own. Tracing looks into a Python function, unless ``torch.fx.wrap`` keeps it whole.

    Returns:
        A decorator that leaves the function as it is.
    """

    def decorate(rule: _AnyRule) -> _AnyRule:
        for operation in operations:
            if isinstance(operation, type) and issubclass(operation, nn.Module):
                _MODULES[operation] = rule
            else:
                _FUNCTIONS[operation] = rule
        return rule

    return decorate


def of_layers(*layers: type[nn.Module], settings: Sequence[str] = ()) -> Callable[[_AnyRule], _AnyRule]:
    """Makes the rule of a function that of layers too.

    Args:
        layers: Layer classes that do what the function does.
        settings: Their attributes that are the function's arguments after the input, in its order.

    Returns:
        A decorator that leaves the function as it is.
    """

    def decorate(rule: _AnyRule) -> _AnyRule:
        @register(*layers)
        def of_layer(site: Site, layer: nn.Module, input: Any) -> Any:  # noqa: A002
            return rule(site, input, *(getattr(layer, name) for name in settings))

        return rule

    return decorate


def rule_of_module(module: nn.Module) -> Rule | None:
    """The rule of a layer; that of a base class too, where the layer computes as that one does."""
    base = next((base for base in type(module).__mro__ if base in _MODULES), None)
    return _MODULES[base] if base is not None and is_plain(module, base) else None


def rule_of_function(function: Callable[..., Any]) -> Rule | None:
    """The rule of a function or tensor method."""
    return _FUNCTIONS.get(function)


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a layer is of a kind, and computes just as that kind does."""
    return isinstance(module, kind) and not any(
        name in vars(module) or getattr(type(module), name, None) is not getattr(kind, name, None)
        for name in _COMPUTING
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether something runs before or after a layer's forward, and might change its result."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def name_of(operation: Callable[..., Any]) -> str:
    """What to write in Python for a layer class, function or method."""
    name = getattr(operation, "__name__", str(operation))
    for prefix, namespace in _NAMESPACES.items():
        if getattr(namespace, name, None) is operation:
            return f"{prefix}.{name}"
    module = str(getattr(operation, "__module__", None) or "torch").removeprefix("_")
    return f"{module}.{getattr(operation, '__qualname__', name)}"
