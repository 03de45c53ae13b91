"""Pooling, sorting and the largest of several coordinates, by comparisons of two values at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Self, TypeVar

import torch
from torch import Tensor

from withstand.graph.coupled import Largest
from withstand.graph.domain import Domain
from withstand.graph.primitives import MaxPool, SortGroups, moved, window_places


class Sortable(Domain, ABC):
    """The interface of a domain of which two values of one shape can be put in order."""

    @abstractmethod
    def exchanged(self, other: Self) -> tuple[Self, Self]:
        """The smaller and the larger of each two coordinates."""


_AnyDomain = TypeVar("_AnyDomain", bound=Domain)
_AnySortable = TypeVar("_AnySortable", bound=Sortable)


def pooled(value: _AnyDomain, pool: MaxPool) -> _AnyDomain:
    """The largest of each window."""
    for places in window_places(pool, value.shape[2:]):
        remaining = [value.monotone(place) for place in places]
        while len(remaining) > 1:  # by pairs
            first, second, *rest = remaining
            remaining = [*rest, first.larger(second)]
        value = remaining[0]
    return value


def largest(value: _AnyDomain, function: Largest) -> _AnyDomain:
    """The largest coordinate along some dimensions."""
    value = value.monotone(moved(partial(gathered, function.dims)))
    while (count := value.shape[-1]) > 1:
        sizes = [count // 2, count // 2, count % 2]
        first, second, rest = (value.monotone(moved(partial(_part, sizes, place))) for place in range(3))
        value = first.larger(second).cat([rest], len(value.shape) - 1)
    return value.monotone(moved(partial(without_gathered, function)))


def sorted_in_groups(value: _AnySortable, groups: SortGroups) -> _AnySortable:
    """Each group sorted, by exchanges of neighbours that bring the largest to the end, again and again."""
    count = len(groups.split(value.center))
    values = [value.monotone(moved(partial(_place, groups, place))) for place in range(count)]
    for end in range(count - 1, 0, -1):
        for place in range(end):
            values[place], values[place + 1] = values[place].exchanged(values[place + 1])
    return values[0].cat(values[1:], 1).monotone(moved(groups.arrange))


def gathered(dims: Sequence[int], x: Tensor) -> Tensor:
    """Some dimensions of (batch, …) as one, at the end."""
    return x.movedim(tuple(dims), tuple(range(-len(dims), 0))).flatten(-len(dims))


def without_gathered(function: Largest, x: Tensor) -> Tensor:
    """The one at the end, of size 1, taken away; where they are to be kept, each in its old place."""
    x = x.squeeze(-1)
    for dim in sorted(function.dims) if function.keepdim else ():
        x = x.unsqueeze(dim)
    return x


def _part(sizes: list[int], place: int, x: Tensor) -> Tensor:
    return torch.split(x, sizes, -1)[place]


def _place(groups: SortGroups, place: int, x: Tensor) -> Tensor:
    return groups.split(x)[place]
