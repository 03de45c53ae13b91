"""In what recipes differ: flat values, short keys, and what to call the runs that differ so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from withstand.flat import flat

__all__ = ["Values", "differing", "flat", "labels", "short_keys"]

Values = Mapping[str, object]
"""Dotted key -> number, text, truth value or None."""

_LONGEST_LABEL = 60


def differing(groups: Sequence[Values]) -> list[str]:
    """The keys whose values are not the same in all groups, in order of appearance."""
    keys = dict.fromkeys(key for values in groups for key in values)
    return [key for key in keys if any(_value(values, key) != _value(groups[0], key) for values in groups)]


def _value(values: Values, key: str) -> tuple[bool, object]:
    return key in values, values.get(key)


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Key -> its shortest ending that ends no other key: ``train_size`` for ``data.train_size``."""
    return {key: _short(key, [other for other in keys if other != key]) for key in keys}


def _short(key: str, others: Sequence[str]) -> str:
    parts = key.split(".")
    endings = [".".join(parts[start:]) for start in range(len(parts) - 1, 0, -1)]
    free = [
        ending
        for ending in endings
        if not ending[0].isdecimal() and not any(f".{other}".endswith(f".{ending}") for other in others)
    ]
    return free[0] if free else key


def _varies(key: str, groups: Sequence[Values]) -> bool:
    """Whether those groups that have a key disagree on it."""
    values = [values[key] for values in groups if key in values]
    return any(value != values[0] for value in values)


def _described(keys: Sequence[str], groups: Sequence[Values]) -> list[str]:
    words = short_keys(keys)
    return [
        ", ".join(f"{word}={_text(values[key])}" for key, word in words.items() if key in values)
        for values in groups
    ]


def labels(names: Sequence[str | None], groups: Sequence[Values]) -> list[str]:
    """What to call groups of runs, no two alike.

    Args:
        names: Of each group, where all its runs agree on one but for the seed.
        groups: The values of each.

    Returns:
        The names, where they tell the groups apart; else the values in which the groups differ, or the name
        of a group of which these say too much.
    """
    if None not in names and len(set(names)) == len(names):
        return [str(name) for name in names]
    keys = differing(groups)
    # That a setting is there at all tells no more than the class that it belongs to.
    found = _described([key for key in keys if _varies(key, groups)], groups)
    if len(set(found)) < len(found):
        found = _described(keys, groups)
    shortened = [
        text if len(text) <= _LONGEST_LABEL else name or f"{text[: _LONGEST_LABEL - 1]}…"
        for text, name in zip(found, names, strict=True)
    ]
    named = [text or name or "run" for text, name in zip(shortened, names, strict=True)]
    return [
        text if named.count(text) == 1 else f"{text} ({number})" for number, text in enumerate(named, start=1)
    ]


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
