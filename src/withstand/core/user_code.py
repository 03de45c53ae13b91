"""Functions of a user's own, by ``path/to/file.py:function`` or ``package.module:function``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from withstand.types import WithstandError


def load_function(name: str, what: str, error: type[WithstandError]) -> Callable[..., Any]:
    """Finds what ``path/to/file.py:function`` or ``package.module:function`` names, which runs its module.

    A file may import its neighbours while it is loaded; its folder does not stay on the path.

    Args:
        name: Where the function is, a colon, and its name.
        what: What the function makes, for errors: ``model``.
        error: Of which kind errors are: of a file, module or function that does not exist, fails to load, or
            cannot be called.
    """
    place, _, function = name.rpartition(":")
    if place.endswith(".py"):
        file = Path(place).expanduser()
        if not file.is_file():
            raise error(
                f"There is no file {file}; give the path of the Python file that makes the {what}, whole or "
                f"from the current folder, {Path.cwd()}."
            )
    with _loading(place, what, error):
        module = _from_file(file) if place.endswith(".py") else importlib.import_module(place)
    members: dict[str, Callable[..., Any]] = {
        key: value for key, value in vars(module).items() if callable(value)
    }
    if function not in members:
        # A large package may have hundreds, so only the closest are shown.
        closest = get_close_matches(function, members, n=5, cutoff=0.0) or ["none"]
        raise error(f"{place} has no function {function!r}; the nearest are: {', '.join(closest)}.")
    return members[function]


def _from_file(file: Path) -> ModuleType:
    # Dataclasses and pickles look their module up by name, so it needs one of its own.
    name = f"withstand_user_{file.stem}_{sha256(str(file.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError("it cannot be loaded as a Python file")
    module = importlib.util.module_from_spec(spec)
    with _on_path(file.resolve().parent), _registered(module):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _loading(place: str, what: str, kind: type[WithstandError]) -> Iterator[None]:
    try:
        yield
    except (Exception, SystemExit) as error:
        raise kind(
            f"{place} could not be loaded, {type(error).__name__}: {' '.join(str(error).split())}. "
            f"A {what} is named path/to/file.py:function or package.module:function."
        ) from error


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def _registered(module: ModuleType) -> Iterator[None]:
    sys.modules[module.__name__] = module
    try:
        yield
    except BaseException:
        del sys.modules[module.__name__]
        raise
