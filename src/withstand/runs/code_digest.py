"""A digest of the code of this package that decides what a recipe's run gives.

That is the code of the classes that the recipe names, of training and evaluation, and of all that these
import, name by name: a new attack or penalty changes the runs that name it, and no others. Comments and
descriptions do not count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from withstand.core.identity import digest_of

_SOURCE = Path(__file__).parents[1]
_PACKAGE = _SOURCE.name
_ALWAYS = ("training.fit", "evaluation.run", "models.registry", "data.load", "graph.rules")


def code_digest(values: Mapping[str, Any]) -> str:
    """The digest for a recipe.

    Args:
        values: All of the recipe, as plain data; classes stand under ``class_path``.
    """
    names = [f"{_PACKAGE}.{module}" for module in _ALWAYS]
    files = files_of([*names, *_classes(values)])
    return digest_of([[file.relative_to(_SOURCE).as_posix(), _normal(file)] for file in sorted(files)])


def files_of(names: Iterable[str]) -> set[Path]:
    """The files of this package that some dotted names lead to, and those that these import.

    Args:
        names: ``withstand.objectives.Certified``, ``withstand.training.fit``; others lead nowhere.
    """
    known: set[Path] = set()
    waiting = [file for name in names if (file := _file_of(name)) is not None]
    while waiting:
        file = waiting.pop()
        if file not in known:
            known.add(file)
            waiting += [target for name in _imports(file).values() if (target := _file_of(name)) is not None]
    return known


def _classes(values: Any) -> Iterator[str]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key == "class_path":
                yield str(value)
            yield from _classes(value)
    elif isinstance(values, list):
        for value in values:
            yield from _classes(value)


@cache
def _file_of(name: str) -> Path | None:
    """The file of a dotted name; of what a package hands on, such as ``withstand.attacks.PGD``, its own."""
    first, *parts = name.split(".")
    if first != _PACKAGE:
        return None
    for length in range(len(parts), 0, -1):
        place = _SOURCE.joinpath(*parts[:length])
        if place.with_suffix(".py").is_file():
            return place.with_suffix(".py")
        if (package := place / "__init__.py").is_file():
            handed_on = _imports(package).get(parts[length]) if parts[length:] else None
            return package if handed_on in (None, name) else _file_of(handed_on)
    return None


@cache
def _imports(file: Path) -> dict[str, str]:
    """Local name -> dotted name of all that a file imports, at whatever depth."""
    imported: dict[str, str] = {}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return imported


@cache
def _normal(file: Path) -> str:
    """The code of a file without comments and docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                body[0] = ast.Pass()
    return ast.dump(tree)
