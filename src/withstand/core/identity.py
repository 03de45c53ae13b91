"""What a result depends on, as a short text: the same text, the same result.

Code counts by its instructions, so that comments, formatting and descriptions do not, and with it what the
code names: helper functions, classes and constants. That of Python, torch and this package does not count:
their versions stand in every run folder.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from withstand.core.bytecode import digest_of_code, imported_in, names_in
from withstand.core.named_values import (
    DATA,
    LIBRARIES,
    content_of,
    functions_of,
    is_constant,
    is_content,
    is_known,
    name_of,
    parts_of,
    resolved,
)
from withstand.core.wrappers import unwrapped
from withstand.types import ModelCard

_LENGTH = 16  # hex digits, of which accidents are not to be feared
_DEPTH = 12  # of containers and objects in one another
_DEVICE = re.compile(r"cpu|mps|(cuda|xpu)(:\d+)?")
MADE = "_made"
"""The attribute that says how a network was made (``core.made``), which is no part of what it computes."""
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def identity(*values: object) -> str:
    """A digest of settings: alike for alike values, in any process.

    Dataclasses count by class and fields, functions by name and code, modules and tensors by what they hold,
    classes that are not of this package by their code too. A thing that has no such form counts by its
    ``repr``; where that names an address it is like nothing else, so that what depends on it is computed
    anew.

    Args:
        *values: The settings.
    """
    reader = Reader()
    plain = [reader.plain(value) for value in values]
    return digest_of(plain, reader.entries)


def digest_of(*plain: object) -> str:
    """A digest of what JSON can hold."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:_LENGTH]


def identity_of_model(model: nn.Module, but: Set[str] = frozenset()) -> str:
    """A digest of a model's layers, code, attributes, parameters and buffers, wherever they are.

    Args:
        model: Any module.
        but: Entries of its description (see ``network.describe``) that do not count.
    """
    return Reader().identity_of_model(model, but)


def bytes_of(tensor: Tensor) -> bytes:
    """The values of a tensor, as they lie in memory."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


class Reader:
    """Reads values, and gathers what they and their code are made of, a text for each part.

    Args:
        is_stateful: Whether lists and dictionaries that code names outside itself count. Where they do not, a
            log that a function appends to is nothing that the function depends on.
        but: A model that does not count, wherever it is met: the one that is trained.

    Attributes:
        entries: Name of a part -> what it is.
    """

    def __init__(self, *, is_stateful: bool = True, but: nn.Module | None = None) -> None:
        self.entries: dict[str, str] = {}
        self._is_stateful = is_stateful
        self._read: dict[object, object] = {}  # code that was read, held so that no other takes its place
        self._within = {id(but)}
        self._depth = 0

    def identity_of_model(self, model: nn.Module, but: Set[str] = frozenset()) -> str:
        """A digest of a model (see the function of this name)."""
        reader, model = Reader(), unwrapped(model)
        reader._within = self._within | {
            id(module) for module in model.modules()
        }  # which may refer to itself
        reader.read_layers(model)
        entries = {key: text for key, text in reader.entries.items() if key not in but}
        digest = hashlib.sha256(digest_of(entries).encode())
        tensors = {
            **model.state_dict(),
            **dict(model.named_buffers()),
        }  # the latter also where not persistent
        for name, tensor in tensors.items():
            if isinstance(tensor, Tensor):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
                digest.update(bytes_of(tensor))
        return digest.hexdigest()[:_LENGTH]

    # -- values -----------------------------------------------------------------------------------------

    def plain(self, value: object) -> Any:
        """A value as JSON can hold it."""
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, torch.device) or (isinstance(value, str) and _DEVICE.fullmatch(value)):
            return "device"  # where it runs is no part of what it computes
        if isinstance(value, str):
            return value
        if isinstance(value, float):
            return {"float": repr(value)}  # infinity, too, which JSON cannot hold
        if isinstance(value, Tensor):
            return f"{tuple(value.shape)} {value.dtype} {hashlib.sha256(bytes_of(value)).hexdigest()}"
        if isinstance(value, np.ndarray):
            return f"{value.shape} {value.dtype} {hashlib.sha256(value.tobytes()).hexdigest()}"
        if id(value) in self._within or self._depth > _DEPTH:
            return f"a {type(value).__qualname__}"
        self._within.add(id(value))
        self._depth += 1
        try:
            return self._of_parts(value)
        finally:
            self._within.discard(id(value))
            self._depth -= 1

    def _of_parts(self, value: object) -> Any:
        if isinstance(value, nn.Module):
            return self.identity_of_model(value)
        if is_dataclass(value) and not isinstance(value, type):
            self.read_code(type(value))
            parts = {part.name: self.plain(getattr(value, part.name)) for part in fields(value)}
            return {"class": name_of(type(value)), **parts}
        if isinstance(value, functools.partial):
            return ["partial", *map(self.plain, (value.func, list(value.args), value.keywords))]
        if isinstance(value, Mapping):
            return {str(key): self.plain(item) for key, item in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, bytes):
            return [self.plain(item) for item in value]
        if isinstance(value, Set):
            return sorted(json.dumps(self.plain(item), sort_keys=True) for item in value)
        if isinstance(value, MethodType):
            return [self.plain(value.__func__), self.plain(value.__self__)]
        if callable(value) and hasattr(value, "__qualname__"):
            self.read_code(value)
            return self._of_function(value)
        return self._of_object(value)

    def _of_function(self, function: Any) -> Any:
        name = name_of(function)
        if "<" not in name or not isinstance(function, FunctionType):
            return name
        # Others have the same name; of this package too, of which no code is read.
        cells = [content_of(cell) for cell in function.__closure__ or ()]
        return [name, digest_of_code(function.__code__), self.plain(cells)]

    def _of_object(self, value: object) -> Any:
        is_own = not is_known(type(value))
        if not is_own and type(value).__repr__ is not object.__repr__:
            return repr(value)
        state = getattr(value, "__dict__", None)
        if state is None:
            return repr(value)
        self.read_code(type(value))
        return {"class": name_of(type(value)), "state": self.plain(state)}

    # -- layers -----------------------------------------------------------------------------------------

    def read_layers(self, model: nn.Module) -> None:
        """Reads the kind, shapes, settings, hooks and code of each layer, but no values of weights."""
        self._within |= {id(module) for module in model.modules()}  # which may refer to one another
        tied: dict[int, str] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            label = f"layer {name}" if name else type(module).__name__
            tensors = [
                f"{key}={_shape(tensor, tied, f'{label} {key}')}"
                for key, tensor in (*module._parameters.items(), *module._buffers.items())
            ]
            self.entries[label] = " ".join([f"{type(module).__name__}({module.extra_repr()})", *tensors])
            self._read_attributes(label, module)
            hooks = [hook for kept in _HOOKS for hook in getattr(module, kept, {}).values()]
            if isinstance(module, torch.fx.GraphModule | torch.jit.ScriptModule):
                self.entries[f"{label}, graph"] = str(module.code)
            if hooks:
                self.entries[f"hooks of {label}"] = json.dumps(self.plain(hooks), sort_keys=True)
            self.read_code(type(module))

    def _read_attributes(self, label: str, module: nn.Module) -> None:
        is_own = not is_known(type(module))
        known = {*vars(nn.Module()), MADE}
        attributes = {
            name: value
            for name, value in vars(module).items()
            if name not in known and (is_own or not name.startswith("_")) and not isinstance(value, ModelCard)
        }
        texts = {name: json.dumps(self.plain(value), sort_keys=True) for name, value in attributes.items()}
        if is_own:
            self.entries |= {f"{label}, attribute {name}": text for name, text in texts.items()}
        elif texts:
            self.entries[f"{label}, settings"] = digest_of(texts)

    # -- code -------------------------------------------------------------------------------------------

    def read_code(self, thing: object) -> None:
        """Reads a function or class, and what it names, where it is not of a library that is known."""
        if id(thing) in self._read:
            return
        self._read[id(thing)] = thing
        if not isinstance(thing, type) and hasattr(thing, "__wrapped__"):
            self.read_code(thing.__wrapped__)
        if is_known(thing):
            return
        if isinstance(thing, type):
            self._read_class(thing)
        elif isinstance(thing, FunctionType):
            self._read_function(thing)

    def _read_class(self, cls: type) -> None:
        for base in cls.__bases__:
            self.read_code(base)
        for name, member in vars(cls).items():
            for function in functions_of(member):
                self._read_named(f"{cls.__qualname__}.{name}", [function])
            if not name.startswith("__") and self._is_setting(member):
                self.entries[f"{cls.__qualname__}.{name}"] = json.dumps(self.plain(member), sort_keys=True)

    def _read_function(self, function: FunctionType) -> None:
        code = function.__code__
        defaults = self.plain([function.__defaults__, function.__kwdefaults__])
        place = function.__qualname__
        self._put(f"code of {place}", digest_of(digest_of_code(code), defaults))
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            self._read_named(f"{name} in {place}", [content_of(cell)])
        if code.co_filename.startswith(LIBRARIES):
            return  # an installed package: its functions call each other without end
        surroundings = function.__globals__
        for name, value in imported_in(code, surroundings.get("__package__") or ""):
            self._read_named(name, parts_of(value) if isinstance(value, ModuleType) else [value])
        for chain in names_in(code):
            key = (id(surroundings), chain)
            if chain[0] in surroundings and key not in self._read:
                self._read[key] = surroundings
                self._read_named(".".join(chain), resolved(surroundings[chain[0]], chain[1:]))

    def _read_named(self, name: str, values: Sequence[object]) -> None:
        """Reads what code names outside itself: functions and classes by their code, else a value."""
        for value in values:
            if callable(value) and hasattr(value, "__qualname__") and is_known(value):
                self._put(f"value of {name}", name_of(value))
            elif isinstance(value, FunctionType | type) or hasattr(value, "__wrapped__"):
                self.read_code(value)
            elif is_constant(value) or (self._is_stateful and is_content(value)):
                self._put(f"value of {name}", json.dumps(self.plain(value), sort_keys=True))

    def _is_setting(self, value: object) -> bool:
        """Whether an attribute of a class is one of its settings."""
        return is_constant(value) or (self._is_stateful and isinstance(value, DATA))

    def _put(self, key: str, text: str) -> None:
        """Stores a part; of two with one name each has its own place."""
        number = 1
        while key in self.entries:
            number += 1
            key = f"{key.partition(' #')[0]} #{number}"
        self.entries[key] = text


def _shape(tensor: Tensor | None, tied: dict[int, str], place: str) -> str:
    if tensor is None or is_lazy(tensor):
        return str(type(tensor).__name__)
    first = tied.setdefault(id(tensor), place)
    return f"{tuple(tensor.shape)} {tensor.dtype}" if first == place else f"that of {first}"
