"""What is affine at the end of a network, however it is written, as one last layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import torch
from torch import Tensor, fx
from typing_extensions import override

from withstand.graph.calls import Call, Constants, Step, needed, walk
from withstand.graph.domain import Domain, LastLayer, NormOf, Region
from withstand.graph.point import Point
from withstand.graph.primitives import Bilinear, Coupled, Monotone, Rearrange, Unimodal, moved
from withstand.graph.rules.norm_rules import BatchNorm
from withstand.operators import GuaranteedNorms, LinearOperator

_MOST_ENTRIES = 2**24  # of the one layer's weight


@final
@dataclass(frozen=True, eq=False)
class Tracked(Domain):
    """A tensor, and the node of which it is an affine function.

    Args:
        value: Tensor (batch, …).
        source: The node; None where it is no affine function of one.
    """

    value: Tensor
    source: fx.Node | None

    @property
    @override
    def center(self) -> Tensor:
        return self.value

    @override
    def affine(self, operator: LinearOperator, bias: Tensor | None, norm: NormOf) -> Self:
        return type(self)(operator.affine(self.value, bias), self.source)

    @override
    def monotone(self, function: Monotone) -> Self:
        return type(self)(function(self.value), self.source if isinstance(function, Rearrange) else None)

    @override
    def unimodal(self, function: Unimodal) -> Self:
        return type(self)(function.function(self.value), None)

    @override
    def coupled(self, function: Coupled) -> Self:
        return type(self)(function(self.value), None)

    @override
    def product(self, other: Self, bilinear: Bilinear) -> Self:
        return type(self)(bilinear(self.value, other.value), None)

    @override
    def larger(self, other: Self) -> Self:
        return type(self)(torch.maximum(self.value, other.value), None)

    @override
    def shift(self, constant: Tensor | float) -> Self:
        return type(self)(self.value + constant, self.source)

    @override
    def add(self, other: Self) -> Self:
        return type(self)(self.value + other.value, self._common(other))

    @override
    def cat(self, others: Sequence[Self], dim: int) -> Self:
        joined = torch.cat([self.value, *(other.value for other in others)], dim)
        return type(self)(joined, self._common(*others))

    def _common(self, *others: Self) -> fx.Node | None:
        return self.source if all(other.source is self.source for other in others) else None


class Tail:
    """The steps of a network from some node on, all of which are affine.

    Args:
        source: The node that they begin at.
        steps: Of which the last gives the logits; none where the source does.
    """

    def __init__(self, source: fx.Node, steps: Sequence[Step]) -> None:
        self.source = source
        self._steps = steps

    def folded(self, constants: Constants, features: Region) -> LastLayer:
        """The steps as one layer, of one vector of features an example.

        Args:
            constants: What the network holds.
            features: The image of a set at the source.
        """
        shape = features.example_shape
        size = torch.Size(shape).numel()
        vectors = features if len(shape) == 1 else features.monotone(moved(lambda x: x.reshape(len(x), size)))
        if not self._steps:
            return LastLayer(
                features, torch.eye(*shape, dtype=features.center.dtype).to(features.center), None
            )
        if len(self._steps) == 1 and self._steps[0].node.target is torch.ops.aten.linear.default:
            (_, weight, *rest), _ = Call(constants, self._steps[0], {self.source: features}).resolved(batch=1)
            return LastLayer(vectors, weight, rest[0] if rest else None)
        weight, bias = self._written_out(constants, features.center)
        return LastLayer(vectors, weight, bias)

    def _written_out(self, constants: Constants, like: Tensor) -> tuple[Tensor, Tensor]:
        """The matrix (classes, hidden) of the steps, and what they add, (classes,)."""
        count = self._steps[-1].outputs[0].stored[0]
        has_gradient = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            origin = like.new_zeros((count, *like.shape[1:]), requires_grad=True)
            logits = walk(
                self._steps,
                constants,
                {self.source: Point(origin), **self._ignored(origin)},
                lambda call: call.apply_rule(GuaranteedNorms()),
            )[self._steps[-1].node].center
            total = logits.diagonal().sum() + 0 * origin.sum()  # which they need not depend on
            (rows,) = torch.autograd.grad(total, origin, create_graph=has_gradient)
        weight, bias = rows.reshape(count, -1), logits[0]
        return (weight, bias) if has_gradient else (weight.detach(), bias.detach())

    def _ignored(self, like: Tensor) -> dict[fx.Node, Point]:
        """What the steps read from elsewhere and write over, so that it may be anything."""
        known = {self.source, *(step.node for step in self._steps)}
        return {
            node: Point(like.new_zeros(len(like), *layout.stored))
            for step in self._steps
            if not known.issuperset(step.inputs)
            for node, layout in step.layouts.items()
            if node not in known
        }


def find_tail(steps: Sequence[Step], sources: Mapping[fx.Node, Tracked], images: fx.Node) -> Tail:
    """The longest tail of a network that can be written out as one layer.

    Args:
        steps: All that the logits depend on; the last gives them, (batch, classes).
        sources: What each node gives for an example, and of which node that is an affine function.
        images: The node that stands for the images.
    """
    if not steps:
        return Tail(images, [])
    last = steps[-1]
    source = sources[last.node].source or last.node
    chosen = stretch(steps, source, last.node, sources)
    if (
        chosen is not None
        and sources[source].value.numel() * sources[last.node].value.numel() <= _MOST_ENTRIES
    ):
        return Tail(source, chosen)
    if last.node.target is torch.ops.aten.linear.default:
        return Tail(last.inputs[0], [last])
    return Tail(last.node, [])


def stretch(
    steps: Sequence[Step], source: fx.Node, end: fx.Node, sources: Mapping[fx.Node, Tracked]
) -> list[Step]:
    """The steps that lead from one node to another, all affine.

    They may read others, whose values they write over.

    Args:
        steps: All of them.
        source: Where they begin.
        end: Where they end.
        sources: What each node gives for an example, and of which node that is an affine function.
    """
    return [
        step
        for step in needed(steps, [end])
        if step.node is not source and step.node in sources and sources[step.node].source is source
    ]


def track(
    steps: Sequence[Step], constants: Constants, images: fx.Node, example: Tensor
) -> dict[fx.Node, Tracked]:
    """What each node gives for an example, and of which node that is an affine function.

    A node that gives several tensors is left out, unless all are affine in one node.

    Args:
        steps: In order.
        constants: What the network holds.
        images: The node that stands for the images.
        example: One of them, (1, …).

    Raises:
        UnsupportedOperationError: there is no rule for an operation.
    """

    def tracked(call: Call) -> Any:
        result = call.apply_rule(GuaranteedNorms())
        if BatchNorm.of(call) is not None:  # goes by the statistics of all values here
            result = _cut(result)
        if isinstance(result, Tracked) and result.source is None:
            return Tracked(result.center, call.node)
        return result

    with torch.no_grad():
        start = {images: Tracked(example, images)}
        values = walk(steps, constants, start, tracked, keep=[images, *(step.node for step in steps)])
    return {node: known for node, value in values.items() if (known := _one_of(value, node)) is not None}


def _cut(value: Any) -> Any:
    """The same, as no affine function of anything."""
    if isinstance(value, list | tuple):
        return [_cut(part) for part in value]
    return Tracked(value.value, None) if isinstance(value, Tracked) else value


def _one_of(value: Any, node: fx.Node) -> Tracked | None:
    if isinstance(value, Tracked):
        return value if value.source is not None else Tracked(value.value, node)
    parts = [part for part in value if isinstance(part, Tracked)] if isinstance(value, list | tuple) else []
    is_one = len({part.source for part in parts}) == 1 and parts[0].source is not None
    return parts[0] if is_one else None
