"""The walls of the house: who may import whom, and how large a file or function may grow."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "withstand"
FILES = sorted(ROOT.rglob("*.py"))

# A file or package may import what stands on a lower level, and its own package.
LEVELS = {
    name: level
    for level, names in enumerate(
        [
            ["types", "dataset_info", "suggest", "flat", "_version"],
            [
                *["norms", "noise", "corruptions", "schedules", "checks", "modes", "roots"],
                *["run_folder", "environment", "numerics", "identity"],
            ],
            ["results"],
            ["spectral", "moments"],
            ["exact", "passes"],
            ["measures", "terms"],
            ["bayes", "data", "models"],
            ["attacks", "constraints", "domains", "penalties"],
            ["objectives", "certificates", "smoothing", "kernel_norms"],
            ["moment_check"],
            ["training", "evaluation", "reporting"],
            ["recipe", "recipe_items", "recipe_upgrade"],
            ["recipe_file"],
            ["runs"],
            ["pipeline", "console", "arguments"],
            ["attack_command", "certify_command", "check_command", "moments_command", "compare_command"],
            ["sweep"],
            ["sweep_command"],
            ["cli"],
        ]
    )
    for name in names
}
MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60  # without the docstring
TORCH_FREE = ("reporting", "results")


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _family(file: Path) -> str:
    """The name in ``LEVELS`` of a file: its package, or the file itself."""
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
    found = {_target(name) for name in imports(_tree(file), _package(file))}
    return {target for target in found if target is not None} - {file}


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_imports_point_down(file: Path) -> None:
    if file == ROOT / "__init__.py":
        return
    family = _family(file)
    assert family in LEVELS, f"{_name(file)} has no level: give it one in this test."
    for target in _edges(file):
        assert target != ROOT / "__init__.py", f"{_name(file)} imports the whole package."
        other = _family(target)
        assert other in LEVELS, f"{other} has no level: give it one in this test."
        allowed = other == family or LEVELS[other] < LEVELS[family]
        assert allowed, f"{_name(file)} (level {LEVELS[family]}) imports {other} (level {LEVELS[other]})."


def test_levels_name_only_what_exists() -> None:
    assert set(LEVELS) <= {_family(file) for file in FILES}


def test_no_file_imports_itself_through_others() -> None:
    edges = {file: _edges(file) for file in FILES if file != ROOT / "__init__.py"}
    done: set[Path] = set()

    def visit(file: Path, path: list[Path]) -> None:
        assert file not in path, "A cycle: " + " -> ".join(_name(step) for step in [*path, file])
        if file not in done:
            for target in edges.get(file, set()):
                visit(target, [*path, file])
            done.add(file)

    for file in edges:
        visit(file, [])


@pytest.mark.parametrize("family", TORCH_FREE)
def test_reporting_imports_no_torch(family: str) -> None:
    for file in (ROOT / family).rglob("*.py"):
        heads = {name.split(".")[0] for name in imports(_tree(file), _package(file))}
        assert not heads & {"torch", "lightning_fabric", "torchmetrics"}, f"{_name(file)} imports torch."


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_files_and_functions_are_short(file: Path) -> None:
    length = len(file.read_text(encoding="utf-8").splitlines())
    assert length <= MAX_FILE_LINES, (
        f"{_name(file)} has {length} lines, more than {MAX_FILE_LINES}: divide it."
    )
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = _lines_without_docstring(node)
            assert lines <= MAX_FUNCTION_LINES, (
                f"{_name(file)}: {node.name} has {lines} lines, more than {MAX_FUNCTION_LINES}: divide it."
            )


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
        ("import withstand.attacks.base", "attacks/base.py"),
        ("from withstand.attacks import PGD", "attacks/__init__.py"),
        ("from withstand.attacks import base", "attacks/base.py"),
        ("from withstand import norms", "norms.py"),
        ("from withstand import fit", "__init__.py"),
        ("import withstand", "__init__.py"),
        ("def f():\n    from withstand.attacks.base import Attack", "attacks/base.py"),
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


def test_imports_are_found_where_they_are_known_to_be() -> None:
    assert {_name(file) for file in _edges(ROOT / "attacks" / "noise.py")} >= {
        "norms.py",
        "attacks/base.py",
        "modes.py",
    }
    assert len(FILES) > 50
