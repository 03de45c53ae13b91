"""What tells whether a network's graph is still the same."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Set
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor, nn

_TENSORS = ("_parameters", "_buffers")
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_DEPTH = 5  # of containers and objects in one another
_MOST_READ = 5000  # containers and objects of one model

Structure: TypeAlias = tuple[Any, ...]
"""All of a model that its graph may depend on; equal where the graph is the same."""


class _Same:
    """A thing that is equal to itself alone, as long as it lives.

    Args:
        thing: Is held where it cannot be referred to weakly, so that no other takes its place in memory.
    """

    __slots__ = ("_hash", "_thing")

    def __init__(self, thing: object) -> None:
        self._hash = id(thing)
        try:
            self._thing: Callable[[], object] = weakref.ref(thing)
        except TypeError:
            self._thing = partial(_itself, thing)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Same):
            return False
        thing = self._thing()
        return thing is not None and thing is other._thing()

    def __hash__(self) -> int:
        return self._hash


def _itself(thing: object) -> object:
    return thing


def structure(model: nn.Module, but: Set[tuple[str, str]] = frozenset()) -> Structure:
    """Modules, modes, hooks, attributes of every kind, and the shapes of all tensors.

    Values of parameters and buffers do not count, since they are read anew at each run.

    Args:
        model: Any module.
        but: Attributes that do not count, each as path of its module and name.
    """
    reader = _Reader()
    seen: dict[int, int] = {}  # tied weights are read in one place
    return tuple(
        (
            name,
            type(module),
            tuple(
                (key, seen.setdefault(id(tensor), len(seen)), *_form(tensor))
                for kind in _TENSORS
                for key, tensor in vars(module)[kind].items()
            ),
            tuple(
                (key, reader.state(value))
                for key, value in vars(module).items()
                if key not in (*_TENSORS, "_modules") and (name, key) not in but
            ),
        )
        for name, module in model.named_modules(remove_duplicate=False)
    )


def attributes_changed(before: Structure, after: Structure) -> frozenset[tuple[str, str]]:
    """The attributes that differ between two structures, each as path of its module and name."""
    earlier = {(name, key): state for name, _, _, attributes in before for key, state in attributes}
    later = {(name, key): state for name, _, _, attributes in after for key, state in attributes}
    return frozenset(place for place, state in later.items() if earlier.get(place) != state)


def _form(tensor: Tensor | None) -> tuple[Any, ...]:
    return () if tensor is None else (tuple(tensor.shape), tensor.dtype, tensor.device)


class _Reader:
    """Reads the state of attributes; of objects that hold much, a part, and who they are."""

    def __init__(self) -> None:
        self._met: set[int] = set()

    def state(self, value: Any, depth: int = _DEPTH) -> Any:
        """What tells a value from others: its content where it can be read, else its identity."""
        if isinstance(value, _PLAIN):
            return type(value), value  # 1, 1.0 and True are equal
        if isinstance(value, Tensor):
            return _Same(value), *_form(value)
        if depth and isinstance(value, tuple | frozenset):
            return type(value), tuple(self.state(part, depth - 1) for part in value)
        if not depth or len(self._met) > _MOST_READ or id(value) in self._met:
            return _Same(value)
        if isinstance(value, list | set):
            self._met.add(id(value))
            return type(value), tuple(self.state(part, depth - 1) for part in value)
        if isinstance(value, Mapping):
            self._met.add(id(value))
            pairs = ((self.state(key, depth - 1), self.state(part, depth - 1)) for key, part in value.items())
            return type(value), tuple(pairs)
        own = getattr(value, "__dict__", None)
        if own and not isinstance(value, nn.Module | type):
            self._met.add(id(value))
            return _Same(value), tuple((key, self.state(part, depth - 1)) for key, part in own.items())
        return _Same(value)
