"""Which rule takes a domain through which operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch._ops import OpOverload, OpOverloadPacket

from withstand.graph.domain import Domain
from withstand.graph.layout import Layout
from withstand.graph.primitives import Rearrange, moved
from withstand.operators import LinearOperator, OperatorNorms, Separable, Shape
from withstand.types import ModelError


class UnsupportedOperationError(ModelError):
    """An operation of the network that no rule covers."""


@dataclass(frozen=True)
class Site:
    """The place in the network where a rule is applied.

    Args:
        name: The node of the graph, unique in the network.
        path: Where in the model the operation stands, such as ``layers.0``.
        operation: The operator, such as ``aten.conv2d``.
        norms: Where operator norms come from.
        layouts: Of the values that depend on the input, in the operator's order.
        outputs: Of what the operator gives.
        is_training: Whether the layer that it stands in is in training mode.
        keeps_precision: Whether it gives what is as precise as what it takes.
    """

    name: str
    path: str
    operation: str
    norms: OperatorNorms
    layouts: Sequence[Layout]
    outputs: Sequence[Layout]
    is_training: bool
    keeps_precision: bool

    def norm(self, operator: LinearOperator, input_shape: Shape) -> Tensor:
        """How far an operator can stretch: what ``Domain.affine`` asks for."""
        return self.norms.of(operator, input_shape, self.name)

    @property
    def place(self) -> str:
        """Node and path, for people to read."""
        where = f"in {self.path!r}" if self.path else "in the model's own forward"
        return f"node {self.name!r}, {where}"

    def refusal(self, reason: str) -> UnsupportedOperationError:
        """The error of a rule that does not cover how its operator is used here.

        Args:
            reason: What is wrong and what to do, going on from "The rule of … ".
        """
        return UnsupportedOperationError(f"The rule of {self.operation} ({self.place}) {reason}")

    def dim(self, dim: int) -> int:
        """A dimension of the operator's first value, as the domain has it.

        Raises:
            UnsupportedOperationError: it is the batch's.
        """
        place = self.layouts[0].dimension(dim)
        if place is None:
            raise self.refusal(
                "needs the batch as it is, one example after another, but goes along its dimension; take "
                "another one."
            )
        return place

    def dims(self, dims: int | Sequence[int] | None) -> list[int]:
        """Several of them; all but the batch's where there are none."""
        if dims is None or dims == []:
            return list(range(1, 1 + len(self.layouts[0].stored)))
        return [self.dim(dim) for dim in ([dims] if isinstance(dims, int) else dims)]

    def rearranged(
        self,
        value: Domain,
        function: Callable[[Tensor], Tensor],
        *,
        sets_constants: bool = False,
        part: int = 0,
    ) -> Domain:
        """The image under what moves, picks or sets coordinates of each example.

        Args:
            value: The operator's first value.
            function: Of a tensor (batch, *sizes): the sizes that the first value has in the graph for a
                batch of one, so that each of its dimensions is counted one higher.
            sets_constants: Whether it sets constants.
            part: Which of the operator's results it gives.
        """
        sizes, after = self.layouts[0].sizes, self.outputs[part].stored

        def of_batch(x: Tensor) -> Tensor:
            return function(x.reshape(len(x), *sizes)).reshape(len(x), *after)

        return value.monotone(Rearrange(of_batch, sets_constants))

    def fitted(self, value: Domain) -> Domain:
        """The same in the shape that the operator's result has."""
        return _reshaped(value, self.outputs[0].stored)

    def aligned(self, value: Domain, rank: int | None = None) -> Domain:
        """A value with further dimensions of size 1 before its own, as broadcasting adds them.

        Args:
            value: One of those that depend on the input.
            rank: How many an example is to have; those of the operator's result where None.
        """
        missing = (len(self.outputs[0].stored) if rank is None else rank) - len(value.example_shape)
        return _reshaped(value, (1,) * missing + value.example_shape)

    def spread(self, value: Domain, shape: Shape | None = None) -> Domain:
        """A value, repeated along the dimensions in which a shape is larger.

        Args:
            value: One of those that depend on the input.
            shape: Of one example; that of the operator's result where None.
        """
        shape = self.outputs[0].stored if shape is None else shape
        whole = self.aligned(value, len(shape))
        pairs = zip(whole.example_shape, shape, strict=True)
        dims = [dim for dim, (own, size) in enumerate(pairs, 1) if own != size]
        if not dims:
            return whole
        repeats = [value.center.new_ones(shape[dim - 1], 1) for dim in dims]
        return whole.affine(Separable(dims, repeats), None, self.norm)


def _reshaped(value: Domain, shape: Shape) -> Domain:
    if value.example_shape == shape:
        return value
    return value.monotone(moved(lambda x: x.reshape(len(x), *shape)))


Rule: TypeAlias = Callable[..., Any]
"""(site, *arguments of the operator) -> what the operator makes of the sets."""
_AnyRule = TypeVar("_AnyRule", bound=Rule)
Operator: TypeAlias = OpOverload | OpOverloadPacket | CustomOpDef
"""One of torch, ``torch.ops.aten.relu`` or ``torch.ops.aten.relu.default``, or one of the user's own."""

_RULES: dict[OpOverload | OpOverloadPacket, Rule] = {}


def register(*operators: Operator) -> Callable[[_AnyRule], _AnyRule]:
    """Makes a function the rule of operators, in every domain.

    The rule is called with the ``Site`` and the arguments as the network gives them, of which one or
    several are a ``Domain``. It must return a set that holds all that the operator can make of the sets'
    members:

        @withstand.domains.register(torch.ops.mine.scale)
        def scale(site, value, factor):
            return value.affine(withstand.operators.Diagonal(factor), None, site.norm)

    Args:
        operators: ``torch.ops.aten.relu`` with all its overloads, one overload, or what
            ``torch.library.custom_op`` gives, which keeps a function of one's own whole.

    Returns:
        A decorator that leaves the function as it is.

    Raises:
        TypeError: something else is given.
    """
    known = [_overload_of(operator) for operator in operators]

    def decorate(rule: _AnyRule) -> _AnyRule:
        _RULES.update(dict.fromkeys(known, rule))
        return rule

    return decorate


def _overload_of(operator: Operator) -> OpOverload | OpOverloadPacket:
    if isinstance(operator, CustomOpDef):
        return operator._opoverload
    if isinstance(operator, OpOverload | OpOverloadPacket):
        return operator
    raise TypeError(
        f"Expected an operator such as torch.ops.aten.relu, but got {operator!r}. Make a function of your "
        "own one by torch.library.custom_op; a layer needs no rule where its operators have some."
    )


def rule_of(operator: Any) -> Rule | None:
    """The rule of an operator: that of its overload, else that of all its overloads."""
    if not isinstance(operator, OpOverload):
        return None
    return _RULES.get(operator) or _RULES.get(operator.overloadpacket)


def rules_of_others() -> list[tuple[str, Rule]]:
    """The rules that are not of this package, each with its operator's name: proofs depend on their code."""
    pairs = ((str(operator), rule) for operator, rule in _RULES.items())
    others = (pair for pair in pairs if not str(pair[1].__module__).startswith("withstand."))
    return sorted(others, key=lambda pair: pair[0])  # several overloads may have one name


def name_of(operator: Any) -> str:
    """The name of an operator, such as ``aten.conv2d``."""
    if isinstance(operator, OpOverload):
        return f"{operator.namespace}.{operator.overloadpacket.__name__}"
    return str(getattr(operator, "__name__", operator))
