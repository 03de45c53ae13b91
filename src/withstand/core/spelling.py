"""Objects made in Python as recipes spell them: a class of this package or torch.optim, and arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import nn

_OURS = ("withstand.", "torch.optim.")  # what a recipe may name, whoever wrote it


class UnspelledError(ValueError):
    """A recipe cannot spell it."""


def spelled(value: Any) -> Any:
    """A value as plain data, from which a recipe makes the same one.

    Raises:
        UnspelledError: it is, or holds, a function or class of others, a tensor, or an object whose arguments
            are not among its attributes.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): spelled(part) for key, part in value.items()}
    if isinstance(value, list | tuple | nn.ModuleList):
        return [spelled(part) for part in value]
    if isinstance(value, functools.partial) and not value.args:
        return {"class_path": _path(value.func), "init_args": spelled(value.keywords)}
    if is_dataclass(value) and not isinstance(value, type):
        arguments = {part.name: getattr(value, part.name) for part in fields(value) if part.init}
        return {"class_path": _path(type(value)), "init_args": spelled(arguments)}
    if isinstance(value, nn.Module):
        return _module(value)
    if callable(value):
        return _path(value)
    raise UnspelledError(f"{value!r} cannot be spelled in a recipe.")


def _module(module: nn.Module) -> dict[str, Any]:
    """An objective or constraint, whose arguments must make one that reads the same."""
    path, arguments = _path(type(module)), {}
    for name, parameter in inspect.signature(type(module)).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if not hasattr(module, name):
            raise UnspelledError(f"{type(module).__name__} does not say its {name}.")
        arguments[name] = getattr(module, name)
    given = spelled(arguments)
    try:
        with torch.random.fork_rng(devices=[]):
            again = type(module)(**arguments)
    except Exception as error:
        raise UnspelledError(f"{type(module).__name__} cannot be made of its attributes.") from error
    if str(again) != str(module):
        raise UnspelledError(f"{type(module).__name__} was changed after it was made.")
    return {"class_path": path, "init_args": given} if given else {"class_path": path}


def _path(thing: Any) -> str:
    path = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '<')}"
    if not path.startswith(_OURS) or "<" in path:
        raise UnspelledError(f"{path} is not of this package, so a recipe does not name it by itself.")
    return path
