"""The source of a model's own file, as it was: files with what it imports beside it, and run from a copy."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from typing_extensions import override

from withstand.core.user_code import function_of, loading, module_name, registered
from withstand.models.registry import Factory
from withstand.types import ModelError


def source_of(file: Path) -> dict[str, bytes]:
    """A file of Python, and all files that it imports from its own folder, and these from there.

    Args:
        file: It exists.

    Returns:
        Path below the file's folder -> content, the file itself first.
    """
    folder, files = file.resolve().parent, {}
    waiting = [file.name]
    while waiting:
        name = waiting.pop(0)
        if name not in files:
            files[name] = (folder / name).read_bytes()
            waiting += _neighbours(files[name], Path(name), folder)
    return files


def _neighbours(source: bytes, file: Path, folder: Path) -> list[str]:
    """The files in a folder that a file there imports, with the ``__init__.py`` of their packages."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    files: dict[str, None] = {}
    for name in _imported(tree, file):
        parts = name.split(".")
        if parts[0] in sys.stdlib_module_names:  # which are loaded, whatever lies in the folder
            continue
        for end in range(1, len(parts) + 1):
            path = Path(*parts[:end])
            for candidate in (path / "__init__.py", path.with_suffix(".py")):
                if (folder / candidate).is_file():
                    files[candidate.as_posix()] = None
    return list(files)


def _imported(tree: ast.AST, file: Path) -> Iterator[str]:
    """Dotted names of what is imported, of ``from a import b`` also ``a.b``, which may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = file.parts[: -node.level] if node.level else ()
            base = [*above, *(node.module.split(".") if node.module else [])]
            yield from (".".join([*base, alias.name]) for alias in node.names if base or node.level)


@dataclass(frozen=True)
class KeptSource:
    """A model's own file and its neighbours, copied; nothing else of the folder they lie in is ever run.

    Args:
        folder: Where the copies lie, for tracebacks.
        entry: The file that has the factory.
        files: Path below the folder -> content.
    """

    folder: Path
    entry: str
    files: Mapping[str, bytes]

    def factory(self, function: str) -> Factory:
        """The factory of that name, which sees the neighbours that were copied, and no others.

        Raises:
            ModelError: the file fails to load, or has no such function.
        """
        file = self.folder / self.entry
        loader = _Copied(module_name(file), str(file), self.files[self.entry])
        spec = importlib.util.spec_from_file_location(loader.name, file, loader=loader)
        if spec is None:
            raise ModelError(f"{file} cannot be loaded as a Python file.")
        module = importlib.util.module_from_spec(spec)
        with self._neighbours(), loading(str(file), "model", ModelError), registered(module):
            loader.exec_module(module)
        made = function_of(module, str(file), function, ModelError)

        @wraps(made)
        def factory(*arguments: Any, **options: Any) -> Any:
            with self._neighbours():
                return made(*arguments, **options)

        return factory

    @contextmanager
    def _neighbours(self) -> Iterator[None]:
        """Meanwhile imports find the copies, also where modules of the same names are there already."""
        finder = _Finder(self)
        former = {name: sys.modules.pop(name) for name in list(sys.modules) if self._has(name)}
        sys.meta_path.insert(0, finder)
        try:
            yield
        finally:
            sys.meta_path.remove(finder)
            for name in [name for name in sys.modules if self._has(name)]:
                del sys.modules[name]
            sys.modules.update(former)

    def _has(self, name: str) -> bool:
        top = name.partition(".")[0]
        return any(Path(file).parts[0] in (top, f"{top}.py") for file in self.files if file != self.entry)


class _Copied(SourceFileLoader):
    """Runs a source that is given, never what a compiled file beside it holds."""

    def __init__(self, name: str, path: str, source: bytes) -> None:
        super().__init__(name, path)
        self._source = source

    @override
    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.path, "exec", dont_inherit=True)


@dataclass
class _Finder(MetaPathFinder):
    kept: KeptSource

    @override
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        place = Path(*fullname.split("."))
        for file, within in (
            (place / "__init__.py", [str(self.kept.folder / place)]),
            (place.with_suffix(".py"), None),
        ):
            if (name := file.as_posix()) in self.kept.files and name != self.kept.entry:
                whole = str(self.kept.folder / file)
                loader = _Copied(fullname, whole, self.kept.files[name])
                return importlib.util.spec_from_file_location(
                    fullname, whole, loader=loader, submodule_search_locations=within
                )
        return None
