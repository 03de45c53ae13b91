"""Which rule takes a domain through which layer, function or method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from torch import Tensor, nn

from withstand.spectral import LinearOperator, OperatorNorms, Shape
from withstand.types import ModelError

__all__ = ["Rule", "Site", "UnsupportedOperationError", "register", "rule_of_function", "rule_of_module"]


@dataclass(frozen=True)
class Site:
    """The place in the network where a rule is applied.

    Args:
        name: The node of the traced graph, unique in the network.
        path: Where in the model the operation stands, such as ``layers.0``.
        norms: Where operator norms come from.
    """

    name: str
    path: str
    norms: OperatorNorms

    def norm(self, operator: LinearOperator, input_shape: Shape) -> Tensor:
        """How far an operator can stretch: what ``Domain.affine`` asks for."""
        return self.norms.of(operator, input_shape, self.name)


class UnsupportedOperationError(ModelError):
    """An operation of the network that no rule covers."""


Rule: TypeAlias = Callable[..., Any]
"""Of a module: (site, module, *arguments); of a function or method: (site, *arguments)."""
_AnyRule = TypeVar("_AnyRule", bound=Rule)

_MODULES: dict[type[nn.Module], Rule] = {}
_FUNCTIONS: dict[Callable[..., Any], Rule] = {}


def register(*operations: type[nn.Module] | Callable[..., Any]) -> Callable[[_AnyRule], _AnyRule]:
    """Makes a function the rule of layers, functions or tensor methods, in every domain.

    The rule is called with the ``Site``, the layer where it is one, and the arguments as the network
    gives them, of which one or several are a ``Domain``. It must return a set that holds all that
    the operation can make of the sets' members:

        @withstand.domains.register(Scale)
        def scale(site, layer, value):
            return value.affine(withstand.spectral.Diagonal(layer.factor), None, site.norm)

    Args:
        operations: Layer classes, functions such as ``torch.relu``, methods such as
            ``torch.Tensor.relu``. A subclass needs a rule of its own where it has a ``forward`` of its own.

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


def rule_of_module(module: nn.Module) -> Rule | None:
    """The rule of a layer; that of a base class too, where the layer computes by its ``forward``."""
    for base in type(module).__mro__:
        rule = _MODULES.get(base)
        if rule is not None:
            return rule if getattr(type(module), "forward", None) is getattr(base, "forward", None) else None
    return None


def rule_of_function(function: Callable[..., Any]) -> Rule | None:
    """The rule of a function or tensor method."""
    return _FUNCTIONS.get(function)
