"""Checks parsed JSON against a ``TypedDict``, and names the key that does not fit."""

from __future__ import annotations

import math
from typing import Annotated, NotRequired, get_args, get_origin, get_type_hints, is_typeddict

from withstand.reporting.schema import Between

__all__ = ["misfit"]

_WORDS: dict[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    list: "a list",
    dict: "a mapping",
    type(None): "null",
}


def misfit(value: object, hint: object, where: str) -> str | None:
    """What keeps a parsed value from being of a type, in one sentence.

    Args:
        value: As ``json.loads`` returns it.
        hint: A ``TypedDict``, list, dict, union, ``Annotated`` range, number, bool, str or None type.
        where: The value's place, such as ``clean.accuracy``; it begins the sentence.

    Returns:
        The first thing that does not fit, or None where all fits. Unknown keys fit.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if is_typeddict(hint):
        return _misfit_of_keys(value, hint, where)
    if origin is NotRequired:
        return misfit(value, arguments[0], where)
    if origin is Annotated:
        return misfit(value, arguments[0], where) or _outside(value, arguments[1], where)
    if origin in (list, dict):
        return _misfit_of_items(value, hint, where)
    if origin is not None:
        return _misfit_of_union(value, arguments, where)
    return None if _is_scalar(value, hint) else _wrong(value, hint, where)


def _misfit_of_keys(value: object, hint: object, where: str) -> str | None:
    if not isinstance(value, dict):
        return _wrong(value, dict, where)
    for key, inner in get_type_hints(hint, include_extras=True).items():
        place = f"{where}.{key}" if where else key
        if key not in value:
            if get_origin(inner) is not NotRequired:
                return f"{place} is missing."
        elif found := misfit(value[key], inner, place):
            return found
    return None


def _misfit_of_items(value: object, hint: object, where: str) -> str | None:
    origin, inner = get_origin(hint), get_args(hint)[-1]
    if isinstance(value, list) and origin is list:
        items = list(enumerate(value))
    elif isinstance(value, dict) and origin is dict:
        items = list(value.items())
    else:
        return _wrong(value, origin, where)
    found = (misfit(item, inner, f"{where}[{key}]") for key, item in items)
    return next((text for text in found if text), None)


def _misfit_of_union(value: object, members: tuple[object, ...], where: str) -> str | None:
    found = [misfit(value, member, where) for member in members]
    return None if None in found else found[0]


def _is_scalar(value: object, hint: object) -> bool:
    if hint is bool or isinstance(value, bool):
        return hint is bool and isinstance(value, bool)
    if hint is float:
        return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if hint is int:
        return isinstance(value, int)
    return isinstance(value, str) if hint is str else value is None


def _outside(value: object, limits: Between, where: str) -> str | None:
    fits = isinstance(value, (int, float)) and limits.lowest <= value <= limits.highest
    wanted = f"between {limits.lowest:g} and {limits.highest:g}"
    return None if fits else f"{where or 'The whole'} must be {wanted}, but is {value!r}."


def _wrong(value: object, wanted: object, where: str) -> str:
    text = repr(value)
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    return f"{where or 'The whole'} must be {_WORDS[wanted]}, but is {shown}."
