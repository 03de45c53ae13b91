"""Functions of a user's own, by ``path/to/file.py:function`` or ``package.module:function``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from withstand.core.named_values import LIBRARIES
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
    with loading(place, what, error):
        module = _from_file(file) if place.endswith(".py") else importlib.import_module(place)
    return function_of(module, place, function, error)


def function_of(
    module: ModuleType, place: str, function: str, error: type[WithstandError]
) -> Callable[..., Any]:
    """A function of a module that was loaded.

    Args:
        module: It.
        place: What the person calls it.
        function: The name.
        error: Of which kind the error is where there is none of that name.
    """
    members: dict[str, Callable[..., Any]] = {
        key: value for key, value in vars(module).items() if callable(value)
    }
    if function not in members:
        # A large package may have hundreds, so only the closest are shown.
        closest = get_close_matches(function, members, n=5, cutoff=0.0) or ["none"]
        raise error(f"{place} has no function {function!r}; the nearest are: {', '.join(closest)}.")
    return members[function]


def module_name(file: Path) -> str:
    """What the module of a file is called: dataclasses and pickles look it up, so it needs its own."""
    return f"withstand_user_{file.stem}_{sha256(str(file.resolve()).encode()).hexdigest()[:8]}"


def _from_file(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(module_name(file), file)
    if spec is None or spec.loader is None:
        raise ImportError("it cannot be loaded as a Python file")
    module = importlib.util.module_from_spec(spec)
    with _on_path(file.resolve().parent), registered(module):
        spec.loader.exec_module(module)
    return module


@contextmanager
def loading(place: str, what: str, kind: type[WithstandError]) -> Iterator[None]:
    """Says of code that fails while it is loaded what it is, as an error of a kind.

    Args:
        place: What the person calls the module.
        what: What its function makes: ``model``.
        kind: Of the error.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        raise kind(
            f"{place} could not be loaded, {type(error).__name__}: {' '.join(str(error).split())}. "
            f"A {what} is named path/to/file.py:function or package.module:function."
        ) from error


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """Meanwhile imports find what lies in a folder, also where another file of the person has that name."""
    files = [*folder.glob("*.py"), *(file.parent for file in folder.glob("*/__init__.py"))]
    own = {file.stem for file in files}
    others = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_elsewhere(name, own, folder)}
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before
        sys.modules.update(others)


def _is_elsewhere(name: str, own: Set[str], folder: Path) -> bool:
    """Whether a module that was imported has the name of a file in a folder, but is of another folder."""
    top = name.partition(".")[0]
    file = str(getattr(sys.modules[name], "__file__", None) or "")
    is_of_library = top in sys.stdlib_module_names or not file or file.startswith(LIBRARIES)
    return top in own and not is_of_library and not Path(file).is_relative_to(folder)


@contextmanager
def registered(module: ModuleType) -> Iterator[None]:
    """Lets a module be found by its name, unless it fails to load."""
    sys.modules[module.__name__] = module
    try:
        yield
    except BaseException:
        del sys.modules[module.__name__]
        raise
