"""Nested values of a recipe by dotted key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_CLASS, _SETTINGS = "class_path", "init_args"


def flat(recipe: Mapping[str, object], *, opens: bool = True) -> dict[str, object]:
    """A recipe's values by dotted key, ``init_args`` left out.

    Args:
        recipe: Mappings in mappings.
        opens: Whether lists too are taken apart, item by item under its number, and an object's class is
            given by its short name, under the object's own key; else both stay as they are.
    """
    return dict(_flat(recipe, "", opens))


def _flat(value: object, key: str, opens: bool) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if opens and name == _CLASS:
                yield key, str(inner).rpartition(".")[2]
            else:
                yield from _flat(inner, key if name == _SETTINGS else f"{key}.{name}".lstrip("."), opens)
    elif opens and isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{key}.{number}", opens)
    else:
        yield key, value
