"""Max pooling and sorting, as maxima of two."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Self, TypeVar

from torch import Tensor
from typing_extensions import override

from withstand.domains.bending import Bending, unknown
from withstand.domains.operations import MaxPool, Monotone, Rearrange, SortGroups, moved
from withstand.domains.windows import window_places

__all__ = ["Comparable", "pooled", "sorted_in_groups"]


class Comparable(Bending, ABC):
    """The interface of distributions of which two of one shape have a maximum."""

    @abstractmethod
    def larger(self, other: Self) -> Self:
        """max(x, y), coordinate by coordinate."""

    @abstractmethod
    def negated(self) -> Self:
        """-x."""

    @abstractmethod
    def rearranged(self, function: Rearrange) -> Self:
        """Its coordinates moved or picked out."""

    @override
    def through(self, function: Monotone) -> Self:
        match function:
            case Rearrange():
                return self.rearranged(function)
            case MaxPool():
                return pooled(self, function)
            case SortGroups():
                return sorted_in_groups(self, function)
        raise unknown(function)


_Compared = TypeVar("_Compared", bound=Comparable)


def pooled(value: _Compared, pool: MaxPool) -> _Compared:
    """The largest of each window."""
    for places in window_places(pool, value.shape[2:]):
        remaining = [value.monotone(place) for place in places]
        while len(remaining) > 1:  # by pairs
            first, second, *rest = remaining
            remaining = [*rest, first.larger(second)]
        value = remaining[0]
    return value


def sorted_in_groups(value: _Compared, groups: SortGroups) -> _Compared:
    """Each group sorted, by exchanges of neighbours that bring the largest to the end, again and again."""
    count = len(groups.split(value.mean))
    values = [value.monotone(moved(partial(_place, groups, place))) for place in range(count)]
    for end in range(count - 1, 0, -1):
        for place in range(end):
            first, second = values[place], values[place + 1]
            smaller = first.negated().larger(second.negated()).negated()
            values[place], values[place + 1] = smaller, first.larger(second)
    return values[0].cat(values[1:], 1).monotone(moved(groups.arrange))


def _place(groups: SortGroups, place: int, x: Tensor) -> Tensor:
    return groups.split(x)[place]
