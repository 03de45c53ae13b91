"""The walls of the house: who may import whom, and how large a file or function may grow."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "withstand"
FILES = sorted(ROOT.rglob("*.py"))
DOORS = (ROOT / "__init__.py", ROOT / "__main__.py")  # by which the house is entered; no room imports them

# A room may import what stands in a line above its own, and itself.
LEVELS = [
    ["types", "_version", "moments"],
    ["core", "corruptions"],
    ["data", "loss", "models", "operators", "results"],
    ["bayes", "constraints", "reporting"],
    ["attacks", "graph", "penalties"],
    ["domains"],
    ["certificates", "objectives"],
    ["integrations", "properties", "training"],
    ["evaluation"],
    ["recipes"],
    ["runs"],
    ["cli"],
]
MAX_LEVELS = 12
MAX_FOLDERS = 24
MAX_LOOSE_FILES = 4
MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60  # without the docstring
TORCH_FREE = ("reporting", "results")


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _room(file: Path) -> str:
    """The name in ``LEVELS`` of a file: its folder, or the file itself."""
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def _package(file: Path) -> list[str]:
    """The dotted parts of the package that a file is in."""
    return ["withstand", *file.relative_to(ROOT).parent.parts]


def imports(tree: ast.Module, package: list[str]) -> Iterator[str]:
    """Dotted names of all that is imported, at whatever depth; names imported from a module included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def _target(name: str) -> Path | None:
    """The file of the package that a dotted name leads to; None where it is not in the package."""
    parts = name.split(".")
    if parts[0] != "withstand":
        return None
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[1:length])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if length > 1 and file.is_file():
                return file
    return ROOT / "__init__.py"


def _edges(file: Path) -> set[Path]:
    """The files of the package that a file imports."""
    targets = {_target(name) for name in imports(_tree(file), _package(file))}
    return {target for target in targets if target is not None} - {file}


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def test_imports_point_down() -> None:
    levels = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
    rising = []
    for file in FILES:
        for target in _edges(file) if file not in DOORS else ():
            room, other = _room(file), _room(target)
            if target in DOORS or not (room == other or levels[other] < levels[room]):
                rising.append(f"{_name(file)} (level {levels[room]}) imports {_name(target)}")
    assert not rising


def test_levels_are_few_and_name_all_rooms() -> None:
    assert sorted(room for rooms in LEVELS for room in rooms) == sorted(
        {_room(file) for file in FILES if file not in DOORS}
    )
    assert len(LEVELS) <= MAX_LEVELS


def test_top_of_the_package_has_few_folders_and_files() -> None:
    folders = {file.relative_to(ROOT).parts[0] for file in FILES if file.parent != ROOT}
    assert len(folders) <= MAX_FOLDERS
    assert len(list(ROOT.glob("*.py"))) <= MAX_LOOSE_FILES


def test_file_names_occur_once_but_for_commands() -> None:
    folders = defaultdict(list)
    for file in FILES:
        if file.name != "__init__.py" and file.parent != ROOT / "cli":
            folders[file.name].append(_name(file))
    assert not [files for files in folders.values() if len(files) > 1]


def test_no_file_imports_itself_through_others() -> None:
    edges = {file: _edges(file) for file in FILES if file not in DOORS}
    done: set[Path] = set()

    def visit(file: Path, path: list[Path]) -> None:
        assert file not in path, "A cycle: " + " -> ".join(_name(step) for step in [*path, file])
        if file not in done:
            for target in edges.get(file, set()):
                visit(target, [*path, file])
            done.add(file)

    for file in edges:
        visit(file, [])


def test_reporting_imports_no_torch() -> None:
    for file in (file for room in TORCH_FREE for file in (ROOT / room).rglob("*.py")):
        heads = {name.split(".")[0] for name in imports(_tree(file), _package(file))}
        assert not heads & {"torch", "lightning_fabric", "torchmetrics"}, f"{_name(file)} imports torch."


def test_files_are_short() -> None:
    lengths = {_name(file): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert not {name: length for name, length in lengths.items() if length > MAX_FILE_LINES}


def test_functions_are_short() -> None:
    lengths = {
        f"{_name(file)}: {node.name}": _lines_without_docstring(node)
        for file in FILES
        for node in ast.walk(_tree(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES}


def _lines_without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node) is None:
        return lines
    docstring = node.body[0]
    return lines - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)


# The reader of imports itself: a test that sees no import cannot fail.


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import withstand.attacks.attack", "attacks/attack.py"),
        ("from withstand.attacks import PGD", "attacks/__init__.py"),
        ("from withstand.attacks import attack", "attacks/attack.py"),
        ("from withstand.core import norms", "core/norms.py"),
        ("from withstand import fit", "__init__.py"),
        ("import withstand", "__init__.py"),
        ("def f():\n    from withstand.attacks.attack import Attack", "attacks/attack.py"),
        ("if TYPE_CHECKING:\n    from withstand.types import Batch", "types.py"),
        ("from .types import Batch", "types.py"),
        ("from ..types import Batch", None),
        ("import torch", None),
    ],
)
def test_every_form_of_import_is_seen(source: str, expected: str | None) -> None:
    (name,) = imports(ast.parse(source), ["withstand"])
    target = _target(name)
    assert (None if target is None else _name(target)) == expected


def test_imports_are_seen_where_they_are_known_to_be() -> None:
    assert {_name(file) for file in _edges(ROOT / "attacks" / "random_noise.py")} >= {
        "core/norms.py",
        "attacks/attack.py",
        "core/modes.py",
    }
    assert len(FILES) > 50
