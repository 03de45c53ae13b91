"""Bounds of a value by pulling coefficients back to the inputs (CROWN, DeepPoly).

Zhang et al., "Efficient neural network robustness certification" (NeurIPS 2018);
Singh et al., "An abstract domain for certifying neural networks" (POPL 2019).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from withstand.core.deadlines import require_time
from withstand.domains.linear import windows
from withstand.domains.linear.linear_inputs import InputSet
from withstand.domains.linear.nodes import Affine, Ends, Inputs, Joined, Moved, Node, Rows, Shifted, Sum
from withstand.domains.linear.windows import Windows


class Pulls(Protocol):
    """What pulls rows back, as a node does."""

    def pull_back(self, rows: Rows) -> tuple[Sequence[Tensor], Tensor | float]:
        """As ``Node.pull_back``."""


_Rows: TypeAlias = Rows | Windows
_EXACT = (Affine, Moved, Shifted, Sum, Joined)
"""Nodes that take away nothing from rows: what they give is the rows, of either sign."""
_NOTHING_CHOSEN: Mapping[Node, Pulls] = MappingProxyType({})
_MEMORY = 2**25
"""Bytes of the coefficients of one layer, for as many rows as are pulled back together: about what caches hold."""


def least(node: Node, rows: Rows, inputs: InputSet) -> Tensor:
    """Lower bounds of linear functions of a node's value over the inputs.

    Args:
        node: Of the value.
        rows: The functions.
        inputs: The sets of inputs.

    Returns:
        Tensor (rows,).
    """
    size = _rows_at_once(node, rows.values.element_size())
    parts = zip(torch.split(rows.values, size), torch.split(rows.owner, size), strict=True)
    return torch.cat([_Front.at(node, Rows(*part)).least(inputs) for part in parts])


def pulled_back(
    node: Node, rows: Rows, inputs: InputSet, chosen: Mapping[Node, Pulls] = _NOTHING_CHOSEN
) -> tuple[Tensor, Tensor]:
    """Linear functions of the inputs that are nowhere above linear functions of a node's value.

    Args:
        node: Of the value.
        rows: The functions.
        inputs: The sets of inputs.
        chosen: What pulls rows back in the place of some nodes.

    Returns:
        Their coefficients (rows, *shape of an input), and constants (rows,).
    """
    front = _Front.at(node, rows)
    front.advance(chosen=chosen)
    if front.pending:
        (at_inputs,) = front.pending.values()
        return _whole(at_inputs).values, front.constant
    return rows.values.new_zeros(len(rows.values), *inputs.center.shape[1:]), front.constant


def refined(node: Node, ends: Ends, wanted: Tensor, inputs: InputSet) -> Ends:
    """The ends of a node's value, made closer where that is wanted.

    Args:
        node: Of the value.
        ends: What is known of it.
        wanted: Bools (batch, *shape): of which coordinates closer ends are wanted.
        inputs: The sets of inputs.

    Returns:
        Nowhere farther apart than ``ends``.
    """
    lower, upper = ends
    owner, place = wanted.flatten(1).nonzero(as_tuple=True)
    found = []
    size = _rows_at_once(node, lower.element_size())
    for owners, places in zip(torch.split(owner, size), torch.split(place, size), strict=True):
        front = _Front.at(node, _units(owners, places, node.shape, lower))
        front.advance(until=_EXACT)
        found.append((front.least(inputs), -front.negated().least(inputs)))
    if not found:
        return ends
    least_of, most_of = (torch.cat(part) for part in zip(*found, strict=True))
    chosen = (owner, place)
    closer_lower = lower.flatten(1).index_put(chosen, least_of).reshape(lower.shape)
    closer_upper = upper.flatten(1).index_put(chosen, most_of).reshape(upper.shape)
    return torch.maximum(lower, closer_lower), torch.minimum(upper, closer_upper)


@dataclass(eq=False)
class _Front:
    """Rows on their way to the inputs.

    Args:
        pending: Node -> coefficients of it that were not pulled back through it yet.
        constant: What the rows are beside these, (rows,).
    """

    pending: dict[Node, _Rows]
    constant: Tensor

    @classmethod
    def at(cls, node: Node, rows: _Rows) -> _Front:
        return cls({node: rows}, rows.values.new_zeros(len(rows.values)))

    def negated(self) -> _Front:
        minus = {node: rows._replace(values=-rows.values) for node, rows in self.pending.items()}
        return _Front(minus, -self.constant)

    def least(self, inputs: InputSet) -> Tensor:
        """Lower bounds of the rows, (rows,); the front itself stays where it is."""
        front = _Front(dict(self.pending), self.constant)
        front.advance()
        for rows in front.pending.values():
            front.constant = front.constant + _least_over(inputs, rows)
        return front.constant

    def advance(
        self, until: tuple[type[Node], ...] = (Node,), chosen: Mapping[Node, Pulls] = _NOTHING_CHOSEN
    ) -> None:
        """Pulls back through nodes of some kinds, latest first, to the first of another kind or the inputs."""
        while self.pending:
            require_time()
            latest = max(self.pending, key=lambda waiting: waiting.index)
            if isinstance(latest, Inputs) or not isinstance(latest, until):
                return
            rows = self.pending.pop(latest)
            parts, constant = _pulled(latest, rows, chosen)
            self.constant = self.constant + constant
            for parent, part in zip(latest.parents, parts, strict=True):
                self.pending[parent] = _sum(self.pending[parent], part) if parent in self.pending else part


def _pulled(
    node: Node, rows: _Rows, chosen: Mapping[Node, Pulls]
) -> tuple[Sequence[_Rows], Tensor | float]:
    if isinstance(rows, Windows):
        if node not in chosen and (pulled := windows.pull_back(node, rows)) is not None:
            parts, constant = pulled
            return [part if part.is_worthwhile else part.whole() for part in parts], constant
        rows = rows.whole()
    values, constant = chosen.get(node, node).pull_back(rows)
    return [Rows(part, rows.owner) for part in values], constant


def _whole(rows: _Rows) -> Rows:
    return rows.whole() if isinstance(rows, Windows) else rows


def _sum(rows: _Rows, others: _Rows) -> _Rows:
    if isinstance(rows, Windows) and isinstance(others, Windows) and (total := rows.plus(others)) is not None:
        return total
    return Rows(_whole(rows).values + _whole(others).values, rows.owner)


def _least_over(inputs: InputSet, rows: _Rows) -> Tensor:
    if isinstance(rows, Rows):
        return inputs.least(*rows)
    every = torch.arange(len(rows.owner), device=rows.owner.device)
    return inputs.cut(rows.owner, rows.chosen).least(rows.values, every)


def _units(owner: Tensor, place: Tensor, shape: tuple[int, ...], like: Tensor) -> _Rows:
    """Rows that pick out one coordinate each."""
    if len(shape) > 1:
        return Windows.units(owner, place, shape, like)
    values = like.new_zeros(len(place), *shape)
    values[torch.arange(len(place), device=place.device), place] = 1
    return Rows(values, owner)


def _rows_at_once(node: Node, itemsize: int) -> int:
    largest = max(math.prod(earlier.shape) for earlier in all_before(node))
    return max(1, _MEMORY // (largest * itemsize))


def all_before(node: Node) -> list[Node]:
    """The node and all that it is made of, the inputs first."""
    seen, waiting = {node}, [node]
    while waiting:
        for parent in waiting.pop().parents:
            if parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return sorted(seen, key=lambda known: known.index)
