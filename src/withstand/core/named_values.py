"""What code names outside itself, and which of it is a setting of what the code does."""

from __future__ import annotations

import functools
import re
import sys
import sysconfig
from argparse import Namespace
from collections.abc import Mapping, Sequence, Set
from types import BuiltinFunctionType, CellType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor, nn

_KNOWN = {"withstand", "torch", "torchgen", "numpy", "builtins", *sys.stdlib_module_names} - {
    "__main__",
    "test",
}
LIBRARIES = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib")})
_USER_FILE = re.compile(r"^withstand_user_(.+)_[0-9a-f]{8}$")  # as ``core/user_code.py`` names a file
_PLAIN = (bool, int, float, str, bytes, type(None), tuple, frozenset)
DATA = (Tensor, np.ndarray, np.generic, Mapping, list, Set, functools.partial, Namespace, SimpleNamespace)
_FIXED = (Tensor, np.ndarray, np.generic, functools.partial, nn.Module)


def is_constant(value: object) -> bool:
    """Whether a value is a setting, not something that code may gather results in, such as a list."""
    if isinstance(value, Mapping):
        return all(map(is_constant, value.values()))
    parameters: Any = getattr(type(value), "__dataclass_params__", None)
    is_frozen = parameters is not None and parameters.frozen
    return is_frozen or isinstance(value, (*_PLAIN, *_FIXED))


def is_content(value: object) -> bool:
    """Whether a value that code names is data, not a module or another such surrounding."""
    is_own = not is_known(type(value), but=("builtins", "torch", "types"))
    return isinstance(value, DATA) or (is_own and not isinstance(value, ModuleType))


def is_known(thing: object, but: Sequence[str] = ()) -> bool:
    """Whether it is of Python, torch or this package, so that its version says what it is."""
    # A wrapper takes on the name of the module that its function is of, but not its surroundings.
    own = thing.__globals__.get("__name__") if isinstance(thing, FunctionType) else None
    name = getattr(thing, "__name__" if isinstance(thing, ModuleType) else "__module__", None)
    top = str(own or name or "builtins").partition(".")[0]
    return top in _KNOWN and top not in but


def resolved(value: object, attributes: Sequence[str]) -> list[object]:
    """What a dotted name leads to: itself, or what it names in a module of the user's own."""
    for attribute in attributes:
        if not isinstance(value, ModuleType) or value.__name__.partition(".")[0] in _KNOWN:
            break
        value = getattr(value, attribute, None)
    return [] if isinstance(value, ModuleType) else [value]


def parts_of(module: ModuleType) -> list[object]:
    """The functions, classes and plain values that a module of the user's own defines."""
    if str(getattr(module, "__file__", None) or "").startswith(LIBRARIES) or is_known(module):
        return []
    return [value for name, value in sorted(vars(module).items()) if not name.startswith("__")]


def functions_of(member: object) -> list[object]:
    """The functions that a member of a class is made of."""
    if isinstance(member, property):
        return [part for part in (member.fget, member.fset) if part is not None]
    if isinstance(member, functools.cached_property):
        return [member.func]
    if isinstance(member, staticmethod | classmethod):
        return [member.__func__]
    is_function = isinstance(member, FunctionType | BuiltinFunctionType) or hasattr(member, "__wrapped__")
    return [member] if is_function else []


def content_of(cell: CellType) -> object:
    """What a function closes over; None where that has no value yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def name_of(thing: Any) -> str:
    """Where a class or function is defined; of this package without its file, which may move."""
    module = _USER_FILE.sub(r"\1", getattr(thing, "__module__", None) or "")
    return f"{'withstand' if module.startswith('withstand.') else module}.{thing.__qualname__}"
