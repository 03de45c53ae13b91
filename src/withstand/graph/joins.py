"""Where paths that are affine in the same value meet, as one operator of that value: x + conv(x), x - x."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, NoReturn, Self, TypeAlias, TypeVar, final

import torch
from torch import Tensor, fx
from typing_extensions import override

from withstand.graph.affine import Tracked, stretch
from withstand.graph.calls import Constants, Step, walk
from withstand.graph.domain import Domain, NormOf, Region
from withstand.graph.primitives import Bilinear, Coupled, Monotone, Rearrange, Unimodal
from withstand.operators import Diagonal, GuaranteedNorms, LinearOperator, OperatorNorms, Shape, algebra

_Join: TypeAlias = Callable[[LinearOperator, LinearOperator, Shape], LinearOperator | None]

_ATEN = torch.ops.aten
_MEETING = (_ATEN.add, _ATEN.sub, _ATEN.rsub, _ATEN.cat)
_NORMS = GuaranteedNorms()  # which are not asked for
_AnyRegion = TypeVar("_AnyRegion", bound=Region)


@final
@dataclass(frozen=True, eq=False)
class Composed(Domain):
    """The affine map that leads from one value to another.

    Args:
        offset: What it makes of 0, (1, …).
        operator: Its linear part; None where that is no operator of a known kind.
        source_shape: Of an example of what it is applied to.
    """

    offset: Tensor
    operator: LinearOperator | None
    source_shape: Shape

    @property
    @override
    def center(self) -> Tensor:
        return self.offset

    @override
    def affine(self, operator: LinearOperator, bias: Tensor | None, norm: NormOf) -> Self:
        shape = self.example_shape
        whole = None if self.operator is None else algebra.product(operator, self.operator, shape)
        return replace(self, offset=operator.affine(self.offset, bias), operator=whole)

    @override
    def monotone(self, function: Monotone) -> Self:
        if not isinstance(function, Rearrange):
            self._refuse()
        return replace(self, offset=function(self.offset), operator=None)

    @override
    def shift(self, constant: Tensor | float) -> Self:
        return replace(self, offset=self.offset + constant)

    @override
    def add(self, other: Self) -> Self:
        operator = self._joined(other, algebra.total)
        return replace(self, offset=self.offset + other.offset, operator=operator)

    @override
    def cat(self, others: Sequence[Self], dim: int) -> Self:
        joined: Self = self
        for other in others:
            operator = joined._joined(other, algebra.beside) if dim == 1 else None
            joined = replace(joined, offset=torch.cat([joined.offset, other.offset], dim), operator=operator)
        return joined

    @override
    def unimodal(self, function: Unimodal) -> NoReturn:
        self._refuse()

    @override
    def coupled(self, function: Coupled) -> NoReturn:
        self._refuse()

    @override
    def product(self, other: Self, bilinear: Bilinear) -> NoReturn:
        self._refuse()

    @override
    def larger(self, other: Self) -> NoReturn:
        self._refuse()

    def _joined(self, other: Self, join: _Join) -> LinearOperator | None:
        if self.operator is None or other.operator is None:
            return None
        return join(self.operator, other.operator, self.source_shape)

    def _refuse(self) -> NoReturn:
        raise NotImplementedError("What is not affine ends a stretch that is.")


class Join(NamedTuple):
    """A step where paths meet that are affine in the same value.

    Attributes:
        source: The node of that value.
        steps: From there on; the last one is where they meet.
    """

    source: fx.Node
    steps: Sequence[Step]

    def refined(
        self, reached: _AnyRegion, source: _AnyRegion, constants: Constants, norms: OperatorNorms
    ) -> _AnyRegion:
        """What is also in the image of the source under the paths as one operator, where that is a known one.

        Args:
            reached: What the rules make of the source.
            source: The set there.
            constants: What the network holds.
            norms: Where operator norms come from.
        """
        composed, name = self.composed(source.center, constants), self.steps[-1].node.name
        if composed is None:
            return reached
        operator, offset = composed
        return reached.meet(
            source.affine(operator, offset, lambda operator, shape: norms.of(operator, shape, name))
        )

    def composed(self, like: Tensor, constants: Constants) -> tuple[LinearOperator, Tensor] | None:
        """The paths as one operator, and what they add; None where they are none of a known kind.

        Args:
            like: A value of the source, (batch, …).
            constants: What the network holds.
        """
        start = Composed(torch.zeros_like(like[:1]), Diagonal(like.new_ones(())), tuple(like.shape[1:]))
        values = walk(self.steps, constants, {self.source: start}, lambda call: call.apply_rule(_NORMS))
        whole: Composed = values[self.steps[-1].node]
        return None if whole.operator is None else (whole.operator, whole.offset)


def find_joins(
    steps: Sequence[Step], sources: Mapping[fx.Node, Tracked], constants: Constants
) -> dict[fx.Node, Join]:
    """The steps of a network where paths meet that are one operator together.

    Args:
        steps: All of them.
        sources: What each node gives for an example, and of which node that is an affine function.
        constants: What the network holds.
    """
    joins = {}
    for step in steps:
        tracked = sources.get(step.node)
        source = None if tracked is None else tracked.source
        if source is None or source is step.node or source not in sources or not _is_meeting(step.node):
            continue
        paths = stretch(steps, source, step.node, sources)
        known = {source, *(other.node for other in paths)}
        if not all(known.issuperset(other.inputs) for other in paths):
            continue
        join = Join(source, paths)
        if join.composed(sources[source].value, constants) is not None:
            joins[step.node] = join
    return joins


def _is_meeting(node: fx.Node) -> bool:
    """Whether a node takes two values, or one of them twice."""
    reads: list[fx.Node] = []
    fx.node.map_arg(node.args, reads.append)
    return getattr(node.target, "overloadpacket", None) in _MEETING and len(reads) > 1
