"""Which groups of runs belong together: those that differ in one number, and levels that all share."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from withstand.reporting.compare.groups import Group, apart, short_keys

_TRAIN_SIZE = "data.train_size"
_MOST_LEVELS = 6
_ENDS_OF_SCHEDULES = ("start", "end")  # what they are of says more


class Family(NamedTuple):
    """Groups that differ in one number alone, ascending in it; or a single group.

    Attributes:
        name: What its members' labels share.
        word: The short name of the number's key; None of a single group.
        members: (number as a text, group) each; the text is empty of a single group.
    """

    name: str
    word: str | None
    members: Sequence[tuple[str, Group]]

    @property
    def legend(self) -> str:
        """What it is called beside its line."""
        return self.name if self.word in (None, self.name) else f"{self.name} ({self.word})"


class Levels(NamedTuple):
    """One key as the columns of a table, all else as its rows.

    Attributes:
        word: The key's short name; None where no such key distinguishes the groups.
        names: The levels, ascending, as texts.
        rows: Row's name -> level -> group.
    """

    word: str | None
    names: Sequence[str]
    rows: Mapping[str, Mapping[str, Group]]


def families_of(groups: Sequence[Group]) -> list[Family]:
    """Every group in one family: the largest that there is of those that differ in one number.

    The number of training examples joins groups only where nothing else does.
    """
    chains = [
        (key, members)
        for key in _keys(groups)
        for members in _alike_but_for(key, [group for group in groups if _is_number(group, key)])
    ]
    chains.sort(key=lambda chain: (chain[0] == _TRAIN_SIZE, -len(chain[1])))
    free = {group.label: place for place, group in enumerate(groups)}
    families: dict[int, Family] = {}
    for key, members in chains:
        joined = [group for group in members if group.label in free]
        if len(joined) > 1:
            families[min(free.pop(group.label) for group in joined)] = _family(key, joined)
    families |= {place: Family(label, None, [("", groups[place])]) for label, place in free.items()}
    return [families[place] for place in sorted(families)]


def levels_of(groups: Sequence[Group]) -> Levels:
    """The number of training examples as levels, or another number that all groups share; else none."""
    keys = _keys(groups)
    for key in sorted(keys, key=lambda name: name != _TRAIN_SIZE):
        rows = _alike_but_for(key, groups)
        names = _level_names(key, groups)
        is_whole = all(len(row) == len(names) for row in rows) and len(rows) > 1
        if 1 < len(names) <= _MOST_LEVELS and (is_whole or key == _TRAIN_SIZE):
            named = apart([shared_name([group.label for group in row]) or "run" for row in rows])
            cells = [{_level(group, key): group for group in row} for row in rows]
            return Levels(short_keys(keys)[key], names, dict(zip(named, cells, strict=True)))
    return Levels(None, [""], {group.label: {"": group} for group in groups})


def by_train_size(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """The groups of each number of training examples, which their labels then leave out.

    Returns:
        ``train_size=300`` -> groups, ascending; all groups under an empty text where they do not differ so,
        or where one would stand alone.
    """
    names = _level_names(_TRAIN_SIZE, groups)
    parts = {name: [group for group in groups if _level(group, _TRAIN_SIZE) == name] for name in names}
    if not 1 < len(names) <= _MOST_LEVELS or min(len(part) for part in parts.values()) == 1:
        return {"": list(groups)}
    return {f"train_size={name}": [_at(group, name) for group in part] for name, part in parts.items()}


def _at(group: Group, size: str) -> Group:
    parts = [part for part in group.label.split(", ") if part != f"train_size={size}"]
    values = {key: value for key, value in group.values.items() if key != _TRAIN_SIZE}
    return replace(group, label=", ".join(parts) or group.label, values=values)


def shared_name(labels: Sequence[str]) -> str:
    """What several labels share: ``plain`` of ``plain, size=3`` and ``plain, size=9``; perhaps nothing.

    Of words that differ, such as ``gradient-0.1`` and ``gradient-0.3``, the beginning; and their end where
    they share that too: ``gradient-…-ball`` of ``gradient-0.1-ball`` and ``gradient-0.3-ball``.
    """
    rows = [label.split(", ") for label in labels]
    if len({len(row) for row in rows}) > 1:
        return ""
    return ", ".join(filter(None, (_common(column) for column in zip(*rows, strict=True))))


def _common(column: Sequence[str]) -> str:
    """What words share at their beginning and at their end, up to a ``-`` or ``_``."""
    if len(set(column)) == 1:
        return column[0]
    beginning = _beginning(column)
    ending = _beginning([word[::-1] for word in column])[::-1]
    if "=" in beginning + ending:
        return ""
    beginning, ending = re.sub(r"[-_]?[^-_]*$", "", beginning), re.sub(r"^[^-_]*", "", ending)
    return f"{beginning}-…{ending}" if beginning and ending else beginning


def _beginning(column: Sequence[str]) -> str:
    shared = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*column, strict=False))
    return "".join(letters[0] for letters in shared)


def _family(key: str, members: Sequence[Group]) -> Family:
    parts = [part for part in key.split(".") if part not in _ENDS_OF_SCHEDULES]
    word = key if parts[-1].isdecimal() else parts[-1]
    ordered = sorted(members, key=lambda group: float(str(group.values[key])))
    name = shared_name([group.label for group in ordered]) or word
    return Family(name, word, [(_level(group, key), group) for group in ordered])


def _keys(groups: Sequence[Group]) -> list[str]:
    return list(dict.fromkeys(key for group in groups for key in group.values))


def _alike_but_for(key: str, groups: Sequence[Group]) -> list[list[Group]]:
    """Groups that have a key, those together whose other values are the same."""
    alike: dict[object, list[Group]] = {}
    for group in groups:
        if key in group.values:
            rest = tuple(sorted((name, repr(value)) for name, value in group.values.items() if name != key))
            alike.setdefault(rest, []).append(group)
    return list(alike.values())


def _level_names(key: str, groups: Sequence[Group]) -> list[str]:
    """The levels of a key in ascending order; none where it is not a number of every group."""
    fits = all(_is_number(group, key) or (key == _TRAIN_SIZE and key in group.values) for group in groups)
    numbers = {_level(group, key): group.values.get(key) for group in groups} if fits else {}
    return sorted(numbers, key=lambda name: float("inf" if numbers[name] is None else str(numbers[name])))


def _is_number(group: Group, key: str) -> bool:
    value = group.values.get(key)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _level(group: Group, key: str) -> str:
    value = group.values[key]
    return "all" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
