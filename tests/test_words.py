"""The words that users read, and the names in the code, are those of the field."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "withstand"
CODE = sorted(SOURCE.rglob("*.py"))
TEXTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "templates").glob("*.md")),
    *sorted((SOURCE / "recipes").rglob("*.yaml")),
    *sorted(file for file in (SOURCE / "reporting" / "templates").iterdir() if file.is_file()),
]

# A word that the code had made up -> what to write instead.
INSTEAD = {
    r"fell(ed|s)?": "broken",
    r"press(es|ed)?": "attack stage",
    r"(un)?lawful|laws": "consistent, consistency",
    r"(?-i:Claims|Attained)": "certified, attack margins",
    r"judge[sd]?|judging": "predictor",
    r"weigh(s|ed|ing)?": "count_correct",
    r"kept_proofs": "certificate cache",
    r"rehears(e[sd]?|ing|als?)": "verify_capture",
    r"conform(s|ed|ing)?": "validated",
    r"misfits?": "does not fit",
    r"valleys?": "unimodal",
    r"eased": "slowed",
    r"telling(?! it| them| apart)": "headline",
    r"wording": "formatting",
    r"(?<=[\"'`])grey(?=[\"'`])|grey(?=[ -]check)": "large_epsilon_check",
    r"(dis)?honest(ly|y)?": "adaptive (EOT) attack",
}
MADE_UP = re.compile(rf"\b(?:{'|'.join(INSTEAD)})\b", re.IGNORECASE)

# (file below the root, what stands there): why it may.
ALLOWED: dict[tuple[str, str], str] = {}

VAGUE = ("found", "each")
MOST_VAGUE = 20
NOT_CODE = re.compile(r'"""[\s\S]*?"""|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|#[^\n]*')


def read_by_users(file: Path) -> Iterator[str]:
    """The texts of a file: those with a space in them of Python, docstrings of what is public among them."""
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        yield text
    elif MADE_UP.search(text):
        tree = ast.parse(text)
        private = set(private_docstrings(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in private:
                yield node.value if " " in node.value.strip() else f'"{node.value}"'


def private_docstrings(tree: ast.Module) -> Iterator[ast.AST]:
    """The docstrings of whatever begins with an underscore, and of what is inside it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name.startswith("_"):
            for inner in ast.walk(node):
                if isinstance(inner, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(inner) is not None:
                    statement = inner.body[0]
                    assert isinstance(statement, ast.Expr)
                    yield statement.value


def made_up_words(file: Path) -> Iterator[tuple[str, str]]:
    """The words of a file that have a better one, and where they stand."""
    for text in read_by_users(file):
        for match in MADE_UP.finditer(text):
            yield match[0], " ".join(text[max(0, match.start() - 40) : match.end() + 40].split())


def vague_names(file: Path) -> int:
    """How often a name in a file has a part that says nothing."""
    names = re.findall(r"[A-Za-z_]\w*", NOT_CODE.sub('""', file.read_text(encoding="utf-8")))
    return sum(any(part in VAGUE for part in name.lower().split("_")) for name in names)


def is_allowed(file: Path, place: str) -> bool:
    name = file.relative_to(ROOT).as_posix()
    return any(path == name and phrase in place for path, phrase in ALLOWED)


@pytest.mark.parametrize("files", [TEXTS, CODE], ids=["pages", "code"])
def test_texts_that_users_read_have_no_made_up_words(files: list[Path]) -> None:
    faults = [
        f"{file.relative_to(ROOT)}: {word!r} in …{place}…"
        for file in files
        for word, place in made_up_words(file)
        if not is_allowed(file, place)
    ]
    assert not faults, "\n".join(faults)


def test_allowed_words_are_still_there() -> None:
    for path, phrase in ALLOWED:
        assert any(phrase in place for _, place in made_up_words(ROOT / path)), (path, phrase)


def test_names_in_the_code_say_what_they_name() -> None:
    numbers = Counter({str(file.relative_to(SOURCE)): vague_names(file) for file in CODE})
    assert numbers.total() <= MOST_VAGUE, numbers.most_common(10)
