"""Bounds of a value by pulling coefficients back to the inputs (CROWN, DeepPoly).

Zhang et al., "Efficient neural network robustness certification" (NeurIPS 2018);
Singh et al., "An abstract domain for certifying neural networks" (POPL 2019).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from withstand.core import norms
from withstand.core.deadlines import require_time
from withstand.domains.linear import row_windows
from withstand.domains.linear.linear_inputs import InputSet
from withstand.domains.linear.nodes import Affine, Bent, Ends, Inputs, Joined, Moved, Node, Rows, Shifted, Sum
from withstand.domains.linear.row_windows import Windows
from withstand.operators import Convolution, Dense


class Pulls(Protocol):
    """What pulls rows back, as a node does."""

    def pull_back(self, rows: Rows) -> tuple[Sequence[Tensor], Tensor | float]:
        """As ``Node.pull_back``."""


_Rows: TypeAlias = Rows | Windows
_EXACT = (Affine, Moved, Shifted, Sum, Joined)
"""Nodes that take away nothing from rows: what they give is the rows, of either sign."""
_NOTHING_CHOSEN: Mapping[Node, Pulls] = MappingProxyType({})
_MEMORY = 2**25
"""Bytes of the coefficients of one layer, for as many rows as are pulled back together: what caches hold."""
_DENSE = 0.3  # of the channels at a place: where more are wanted all are bounded, which share their windows
_FEW = 16  # as a part of the rows at once, below which those of one example are too few


def least(node: Node, rows: Rows, inputs: InputSet) -> Tensor:
    """Lower bounds of linear functions of a node's value over the inputs.

    Args:
        node: Of the value.
        rows: The functions.
        inputs: The sets of inputs.

    Returns:
        Tensor (rows,).
    """
    size = _rows_at_once(node, inputs)
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
    if not bool(wanted.any()):
        return ends
    bound = _ends_of_map if len(node.shape) > 1 else _ends_of_vector
    closer = bound(node, wanted, inputs)
    lower, upper = (torch.where(wanted, part, end) for part, end in zip(closer, ends, strict=True))
    # A bound that is not a number says nothing.
    return torch.fmax(ends[0], lower), torch.fmin(ends[1], upper)


def _ends_of_vector(node: Node, wanted: Tensor, inputs: InputSet) -> Ends:
    """The ends of at least what is wanted, each coordinate by itself."""
    flat = norms.flat(wanted)
    owner, place = flat.nonzero(as_tuple=True)
    parts = []
    for chosen in _chunks(owner, _rows_at_once(node, inputs)):
        values = F.one_hot(place[chosen], flat.shape[1]).reshape(-1, *node.shape).to(inputs.center)
        front = _Front.at(node, Rows(values, _shared(owner[chosen])))
        front.advance(until=_EXACT)  # which leave both ends the same coefficients
        parts.append(torch.stack([front.least(inputs), -front.negated().least(inputs)]))
    least_of, most_of = torch.cat(parts, 1)
    lower, upper = (_placed(bound, (owner, place), flat) for bound in (least_of, most_of))
    return lower.reshape(wanted.shape), upper.reshape(wanted.shape)


def _ends_of_map(node: Node, wanted: Tensor, inputs: InputSet) -> Ends:
    """The same of (channels, *sizes), by windows that start at one place."""
    wanted = wanted.movedim(1, -1)
    is_any = wanted.any(-1)
    places, of_places = is_any.nonzero(), wanted[is_any]
    if float(of_places.double().mean()) > _DENSE:
        channels = torch.arange(node.shape[0], device=places.device)[None]
    else:
        window, channel = of_places.nonzero(as_tuple=True)
        places, channels = places[window], channel[:, None]
    units = F.one_hot(channels, node.shape[0]).to(inputs.center)
    units = torch.cat([units, -units], 1)
    parts = []
    for chosen in _chunks(places[:, 0], max(1, _rows_at_once(node, inputs) // units.shape[1])):
        of_chunk = units if len(units) == 1 else units[chosen]
        rows = Windows.at(places[chosen], of_chunk, node.shape[1:])
        parts.append(_Front.at(node, rows).least(inputs).reshape(-1, 2, channels.shape[1]))
    least_of, most_of = torch.cat(parts).unbind(1)
    index = [*places.T[..., None], channels]
    return _placed(least_of, index, wanted).movedim(-1, 1), _placed(-most_of, index, wanted).movedim(-1, 1)


def _placed(values: Tensor, index: Sequence[Tensor], wanted: Tensor) -> Tensor:
    """Values at their places, 0 elsewhere."""
    return values.new_zeros(wanted.shape).index_put(tuple(index), values)


def _chunks(owner: Tensor, size: int) -> Iterator[slice]:
    """Rows to be pulled back together: of one example where it has many, which saves copies of what is known.

    Args:
        owner: Integers (rows,), ascending.
        size: Rows at once.
    """
    counts = torch.bincount(owner)
    ends = counts.cumsum(0).tolist()
    starts = [0, *ends[:-1]] if ends[-1] > len(ends) * size / _FEW else [0]
    for start, end in zip(starts, ends if len(starts) > 1 else ends[-1:], strict=True):
        for first in range(start, end, size):
            yield slice(first, min(first + size, end))


def _shared(owner: Tensor) -> Tensor:
    """One for all rows where they are of one example."""
    return owner[:1] if bool((owner == owner[0]).all()) else owner


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
        return cls({node: rows}, rows.values.new_zeros(rows.num_rows))

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
        """Pulls back through nodes of some kinds, latest first, to one of another kind or the inputs."""
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


def _pulled(node: Node, rows: _Rows, chosen: Mapping[Node, Pulls]) -> tuple[Sequence[_Rows], Tensor | float]:
    if isinstance(rows, Windows):
        if node not in chosen and (pulled := row_windows.pull_back(node, rows)) is not None:
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
    whole = _whole(rows)
    return Rows(whole.values + _whole(others).values, whole.owner)


def _least_over(inputs: InputSet, rows: _Rows) -> Tensor:
    return row_windows.least(inputs, rows) if isinstance(rows, Windows) else inputs.least(*rows)


def _rows_at_once(node: Node, inputs: InputSet) -> int:
    largest = max(math.prod(earlier.shape) for earlier in all_before(node))
    return max(1, _MEMORY // (largest * inputs.center.element_size()))


def work(node: Node) -> int:
    """About how many multiplications it takes to bound, of one example, all that bends before a value.

    As if every coordinate were bounded, by coefficients of whole layers.

    Args:
        node: Of the value.
    """
    total = through = 0
    for earlier in all_before(node):
        if isinstance(earlier, Bent):
            total += math.prod(earlier.shape) * through
        through += _multiplications(earlier)
    return total


def _multiplications(node: Node) -> int:
    """To pull one row back through a node."""
    size = math.prod(node.shape)
    match node:
        case Affine(operator=Convolution(weight=weight)):
            return size * weight[0].numel()
        case Affine(operator=Dense(weight=weight)):
            return size * weight.shape[1]
    return size


def all_before(node: Node) -> list[Node]:
    """The node and all that it is made of, the inputs first."""
    seen, waiting = {node}, [node]
    while waiting:
        for parent in waiting.pop().parents:
            if parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return sorted(seen, key=lambda known: known.index)
