"""Items of a recipe's lists on the command line: ``--evaluation.attacks.0.num_steps=20``."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from withstand.types import RecipeError

_CLASS, _SETTINGS = "class_path", "init_args"


class Item(NamedTuple):
    """A value for a place inside a list.

    Attributes:
        key: Dotted, with the number of a list's item in it, from 0: ``objective.terms.1.weight``.
        value: Plain data.
    """

    key: str
    value: Any


def is_item(argument: str) -> bool:
    """Whether a ``--key=value`` is about an item of a list: a part of its key is a number."""
    key = argument.partition("=")[0]
    return key.startswith("--") and any(part.isdecimal() for part in key.split(".")[1:])


def put(document: Any, items: Sequence[Item]) -> None:
    """Puts values into a recipe as plain data, in their order.

    Args:
        document: All values of a recipe, with the defaults; it is changed.
        items: What to put where; ``init_args`` is entered without being named.

    Raises:
        RecipeError: there is no such place.
    """
    for item in items:
        *path, last = item.key.split(".")
        place, done = document, ""
        for part in path:
            place, done = _entered(place, part, done), _dotted(done, part)
        _set(place, last, done, item.value)


def _entered(place: Any, part: str, done: str) -> Any:
    """What a part of a key leads to, after ``done``, which leads to ``place``."""
    if isinstance(place, list):
        return place[_number(place, part, done)]
    settings = _settings(place, part, done)
    if part not in settings:
        near = get_close_matches(part, settings, n=1)
        hint = f" Did you mean {_dotted(done, near[0])!r}?" if near else ""
        known = ", ".join(settings) or "none"
        raise RecipeError(f"Unknown key {_dotted(done, part)!r}.{hint} There are: {known}.")
    return settings[part]


def _set(place: Any, part: str, done: str, value: Any) -> None:
    """Puts a value there; whether the last key exists is for the recipe's own check to say."""
    if isinstance(place, list):
        place[_number(place, part, done)] = value
        return
    if part == _CLASS and isinstance(place, dict):
        place.pop(_SETTINGS, None)  # those of the former class
    _settings(place, part, done)[part] = value


def _number(place: Sequence[Any], part: str, done: str) -> int:
    if part.isdecimal() and int(part) < len(place):
        return int(part)
    count = f"{len(place)} item{'' if len(place) == 1 else 's'}"
    raise RecipeError(f"There is no {done}.{part}: {done} is a list of {count}, numbered from 0.")


def _settings(place: Any, part: str, done: str) -> dict[str, Any]:
    """The mapping in which a part of a key is looked up: of a class, its settings."""
    if not isinstance(place, dict):
        kind = "no list, and a number names an item of a list" if part.isdecimal() else "a plain value"
        raise RecipeError(f"There is no {_dotted(done, part)}: {done} is {kind}.")
    if _CLASS not in place or part in (_CLASS, _SETTINGS):
        return place
    settings: dict[str, Any] = place.setdefault(_SETTINGS, {})
    return settings


def _dotted(done: str, part: str) -> str:
    return f"{done}.{part}" if done else part
