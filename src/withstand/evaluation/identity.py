"""What a result depends on, as a short text: the same text, the same result."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

_LENGTH = 16  # hex digits, of which accidents are not to be feared


def identity(*values: object) -> str:
    """A digest of settings: alike for alike values, in any process.

    Dataclasses count by class and fields, functions by name and code, modules and tensors by what they hold.
    A thing that has no such form counts by its ``repr``; where that names an address it is like nothing else,
    so that what depends on it is computed anew.

    Args:
        *values: The settings.
    """
    text = json.dumps([_plain(value) for value in values], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_LENGTH]


def identity_of_model(model: nn.Module) -> str:
    """A digest of a model's layers and their plain settings, parameters and buffers, wherever they are.

    Settings are the numbers, truths and texts among a module's public attributes: where a forward counts
    something there, the model is another each time, and what depends on it is computed anew.
    """
    settings = [(name, _settings_of(module)) for name, module in model.named_modules()]
    digest = hashlib.sha256(f"{model!r} {settings}".encode())
    tensors = {**model.state_dict(), **dict(model.named_buffers())}  # the latter also where not persistent
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(_bytes_of(tensor))
    return digest.hexdigest()[:_LENGTH]


def _settings_of(module: nn.Module) -> dict[str, object]:
    return {
        name: value
        for name, value in sorted(vars(module).items())
        if not name.startswith("_") and name != "training" and isinstance(value, bool | int | float | str)
    }


def _plain(value: object) -> Any:
    """A value as JSON can hold it."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return {"float": repr(value)}  # infinity, too, which JSON cannot hold
    if isinstance(value, nn.Module):
        return identity_of_model(value)
    if isinstance(value, Tensor):
        return hashlib.sha256(_bytes_of(value)).hexdigest()
    return _plain_whole(value)


def _plain_whole(value: object) -> Any:
    """The same of what has parts."""
    if is_dataclass(value) and not isinstance(value, type):
        parts = {part.name: _plain(getattr(value, part.name)) for part in fields(value)}
        return {"class": _name_of(type(value)), **parts}
    if isinstance(value, functools.partial):
        return ["partial", _plain(value.func), _plain(list(value.args)), _plain(value.keywords)]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    if callable(value):
        return _of_callable(value)
    return repr(value)


def _of_callable(function: Callable[..., object]) -> str:
    code = getattr(function, "__code__", None)
    if not hasattr(function, "__qualname__"):
        return repr(function)
    name = _name_of(function)
    body = "" if code is None else hashlib.sha256(code.co_code + repr(code.co_consts).encode()).hexdigest()
    return f"{name} {body if '<' in name else ''}"


def _name_of(thing: Any) -> str:
    """Where a class or function is defined; of this package without its file, which may move."""
    module = getattr(thing, "__module__", None) or ""
    return f"{'withstand' if module.startswith('withstand.') else module}.{thing.__qualname__}"


def _bytes_of(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
