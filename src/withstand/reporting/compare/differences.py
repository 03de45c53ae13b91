"""In what recipes differ: flat values, short keys, and what to call the runs that differ so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Values = Mapping[str, object]
"""Dotted key -> number, text, truth value or None."""

_LONGEST_LABEL = 60
_ABSENT = object()  # which is not None


def differing(groups: Sequence[Values]) -> list[str]:
    """The keys whose values are not the same in all groups, in order of appearance."""
    keys = dict.fromkeys(key for values in groups for key in values)
    return [key for key in keys if not _is_one([values.get(key, _ABSENT) for values in groups])]


def _is_one(values: Sequence[object]) -> bool:
    return all(value == values[0] for value in values)


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
    telling = [key for key in keys if not _is_one([each[key] for each in groups if key in each])]
    described = _described(telling, groups)
    if len(set(described)) < len(described):
        described = _described(keys, groups)
    shortened = [
        text if len(text) <= _LONGEST_LABEL else name or f"{text[: _LONGEST_LABEL - 1]}…"
        for text, name in zip(described, names, strict=True)
    ]
    return apart([text or name or "run" for text, name in zip(shortened, names, strict=True)])


def apart(names: Sequence[str]) -> list[str]:
    """The names, each with its number where it is not the only one of its kind."""
    return [
        name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names, start=1)
    ]


def _described(keys: Sequence[str], groups: Sequence[Values]) -> list[str]:
    words = short_keys(keys)
    return [
        ", ".join(f"{word}={_text(values[key])}" for key, word in words.items() if key in values)
        for values in groups
    ]


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
