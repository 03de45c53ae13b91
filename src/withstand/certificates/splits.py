"""Subproblems of branch and bound: a set of inputs on which some neurons are known to lie on one side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, Self, TypeAlias, TypeVar

import torch
from torch import Tensor

from withstand.core import norms
from withstand.domains.linear.nodes import Ends
from withstand.domains.linear.slopes import Functions, Record, Search

_Merge: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Check: TypeAlias = Callable[[Tensor], Tensor | None]
"""From points (points, *shape of an input) to a counter-example that is among them, or None."""


class Branched(NamedTuple):
    """What came of branch and bound.

    Attributes:
        bound: A sound lower bound of the margin.
        num_splits: How many sets were taken apart.
        counterexample: Tensor (*shape of an input), or None.
        is_complete: Whether nothing is left that could be tried.
    """

    bound: float
    num_splits: int
    counterexample: Tensor | None
    is_complete: bool


class Parts(NamedTuple):
    """Subproblems, one a row; the coordinates are those of all bent nodes that are worth a split.

    Attributes:
        bound: Of each row's margin, a sound lower bound, float64 (rows,).
        group: Of the goal, integers (rows,).
        shares: Of the group's functions in the row's combination, float32 (rows, functions).
        lower: What splits left of each coordinate's interval, float32 (rows, coordinates).
        upper: As that.
        slopes: Of the lower lines, float32 (rows, coordinates).
        multipliers: Float32 (rows, coordinates).
        next_split: Of which coordinate next, integers (rows,); -1 where none is left.
    """

    bound: Tensor
    group: Tensor
    shares: Tensor
    lower: Tensor
    upper: Tensor
    slopes: Tensor
    multipliers: Tensor
    next_split: Tensor

    def of(self, rows: Tensor | slice) -> Self:
        """Some of them, by integers, bools or a slice."""
        return type(self)(*(part[rows] for part in self))

    def cut(self, column: Tensor, place: Tensor, *, above: bool) -> Self:
        """What of each row lies on one side of a place of a coordinate.

        Args:
            column: Of the coordinate, integers (rows,).
            place: Float32 (rows,).
            above: Whether on the upper side.
        """
        where = (torch.arange(len(column), device=column.device), column)
        multipliers = self.multipliers.index_put(where, place.new_zeros(()))
        if above:
            return self._replace(lower=self.lower.index_put(where, place), multipliers=multipliers)
        return self._replace(upper=self.upper.index_put(where, place), multipliers=multipliers)


class Layout:
    """Which coordinates of a record's bent nodes are worth a split, one after another.

    Args:
        record: Of a batch of one, in float64.
        single: The same in float32.
        ends: Before each bent node, (1, *shape) each.
    """

    def __init__(self, record: Record, single: Record, ends: Sequence[Ends]) -> None:
        self.record, self._single, self._ends = record, single, ends
        bends = [
            node.bend(end)[0] & (end[0] - end[1]).isfinite()
            for node, end in zip(record.bent, ends, strict=True)
        ]
        self._places = [norms.flat(bend)[0].nonzero()[:, 0] for bend in bends]
        self._sizes = [len(places) for places in self._places]

    @property
    def num_coordinates(self) -> int:
        """How many coordinates there are."""
        return sum(self._sizes)

    @property
    def num_entries(self) -> int:
        """Of the values before all bent nodes, for one row."""
        return sum(end[0].numel() for end in self._ends)

    def whole(self, group: Tensor, shares: Tensor) -> Parts:
        """The set of inputs itself, once for each of some groups, with the lines that the nodes have."""
        rows, size = len(group), self.num_coordinates
        lines = [node.lines(end) for node, end in zip(self.record.bent, self._ends, strict=True)]
        slopes = self._gathered([line.lower_slope for line in lines]).float()
        zeros = slopes.new_zeros(rows, size)
        return Parts(
            bound=group.new_full((rows,), -torch.inf, dtype=torch.float64),
            group=group,
            shares=shares,
            lower=torch.full_like(zeros, -torch.inf),
            upper=torch.full_like(zeros, torch.inf),
            slopes=slopes.expand(rows, size).clone(),
            multipliers=zeros,
            next_split=torch.full_like(group, -1),
        )

    def search(self, parts: Parts, functions: Functions) -> Search:
        """The search for bounds of some subproblems."""
        lowers, uppers = zip(*self._ends, strict=True) if self._ends else ((), ())
        ends = zip(
            self._spread(lowers, parts.lower, torch.maximum),
            self._spread(uppers, parts.upper, torch.minimum),
            strict=True,
        )
        zeros = [torch.zeros_like(lower, dtype=torch.float32) for lower in lowers]
        slopes, multipliers = (
            self._spread(zeros, part, lambda _, new: new) for part in (parts.slopes, parts.multipliers)
        )
        owner = torch.zeros_like(parts.group)
        return Search(
            self.record,
            self._single,
            functions._replace(shares=parts.shares),
            owner,
            [*ends],
            slopes,
            multipliers,
        )

    def refreshed(self, parts: Parts, search: Search) -> Parts:
        """The subproblems with what a search has found."""
        shares = search.functions.shares
        assert shares is not None
        return parts._replace(
            shares=shares,
            slopes=self._gathered(search.slopes),
            multipliers=self._gathered(search.multipliers),
        )

    def cut_places(self, parts: Parts, column: Tensor) -> Tensor:
        """Where a coordinate of each row is to be split, (rows,) in float32."""
        lower, upper = self.intervals(parts)
        ends = lower.gather(1, column[:, None]), upper.gather(1, column[:, None])
        node_of = torch.repeat_interleave(torch.arange(len(self._sizes)), torch.tensor(self._sizes)).to(
            column.device
        )[column]
        places = torch.zeros_like(ends[0])
        for index, node in enumerate(self.record.bent):
            places = torch.where(node_of[:, None] == index, node.bend(ends)[1], places)
        return places[:, 0].float()

    def intervals(self, parts: Parts) -> Ends:
        """Between which each coordinate lies, (rows, coordinates), in float64."""
        lower, upper = (self._gathered([end[side] for end in self._ends]) for side in (0, 1))
        return torch.maximum(lower, parts.lower.double()), torch.minimum(upper, parts.upper.double())

    def cuts(self, part: Parts) -> list[Tensor]:
        """Which coordinates before each bent node were cut in one subproblem, flat integers (cuts,)."""
        is_cut = (part.lower[0] > -torch.inf) | (part.upper[0] < torch.inf)
        pieces = zip(self._places, torch.split(is_cut, self._sizes), strict=True)
        return [places[chosen] for places, chosen in pieces]

    def looseness(self, parts: Parts, seen: Sequence[Tensor]) -> Tensor:
        """How far apart the lines of each coordinate are where it would be split, times its coefficient.

        As the scores of Bunel et al., "Branch and bound for piecewise linear neural network verification"
        (JMLR 2020), without what the value before adds.

        Args:
            parts: The subproblems.
            seen: Coefficients that arrived at each bent node, (rows, *shape).

        Returns:
            Tensor (rows, coordinates), 0 where there is nothing to be split.
        """
        lower, upper = (torch.split(end, self._sizes, 1) for end in self.intervals(parts))
        gaps = []
        for node, *ends in zip(self.record.bent, lower, upper, strict=True):
            (lower_slope, lower_offset, upper_slope, upper_offset), (is_bent, at) = (
                node.lines((ends[0], ends[1])),
                node.bend((ends[0], ends[1])),
            )
            gap = (upper_slope - lower_slope) * at + upper_offset
            gaps.append(torch.where(is_bent, gap if lower_offset is None else gap - lower_offset, 0.0))
        return torch.cat(gaps, 1) * self._gathered(seen).abs()

    def _gathered(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(
            [norms.flat(part)[:, places] for part, places in zip(parts, self._places, strict=True)], 1
        )

    def _spread(self, bases: Sequence[Tensor], values: Tensor, merged: _Merge) -> list[Tensor]:
        """Values of one row each before every bent node, merged with those (rows, coordinates)."""
        spread = []
        for base, places, part in zip(bases, self._places, torch.split(values, self._sizes, 1), strict=True):
            flat = norms.flat(base).expand(len(values), -1).clone()
            flat[:, places] = merged(flat[:, places], part.to(flat))
            spread.append(flat.reshape(len(values), *base.shape[1:]))
        return spread


_Waiting = TypeVar("_Waiting", bound=tuple[Tensor, ...])


class Store(Generic[_Waiting]):
    """Subproblems that wait, in tensors that grow, so that few rows are moved at a time.

    Args:
        parts: A named tuple of tensors with one row a subproblem, the first of which has their bounds.
    """

    def __init__(self, parts: _Waiting) -> None:
        self._rows = parts
        self._waiting = torch.arange(len(parts[0]), device=parts[0].device)
        self._free = self._waiting[:0]

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def bounds(self) -> Tensor:
        """Of all that wait."""
        return self._rows[0][self._waiting]

    @property
    def num_bytes(self) -> int:
        """Of memory."""
        return sum(part.numel() * part.element_size() for part in self._rows)

    def take(self, count: int) -> _Waiting:
        """Takes out the subproblems of the lowest bounds."""
        chosen = self.bounds.topk(min(max(1, count), len(self)), largest=False).indices
        rows = self._waiting[chosen]
        stays = torch.ones_like(self._waiting, dtype=torch.bool).index_fill(0, chosen, False)
        self._waiting, self._free = self._waiting[stays], torch.cat([self._free, rows])
        return self._made(part[rows] for part in self._rows)

    def put(self, parts: _Waiting) -> None:
        """Adds subproblems."""
        count, size = len(parts[0]), len(self._rows[0])
        if count > len(self._free):
            more = max(count, size)
            self._rows = self._made(
                torch.cat([part, part.new_empty(more, *part.shape[1:])]) for part in self._rows
            )
            self._free = torch.cat([self._free, torch.arange(size, size + more, device=self._free.device)])
        rows, self._free = self._free[:count], self._free[count:]
        for part, new in zip(self._rows, parts, strict=True):
            part[rows] = new
        self._waiting = torch.cat([self._waiting, rows])

    def _made(self, parts: Iterable[Tensor]) -> _Waiting:
        return type(self._rows)(*parts)
