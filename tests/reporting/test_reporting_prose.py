"""The paragraphs of the page."""

from __future__ import annotations

from pathlib import Path

from withstand import reporting
from withstand.reporting.section import PROSE


def test_prose_is_all_used() -> None:
    files = Path(reporting.__file__).parent.rglob("*.py")
    code = "".join(file.read_text(encoding="utf-8") for file in files)
    names = {name for section in PROSE.values() for name in section if name != "cifar10-jpeg"}
    assert not [name for name in (*PROSE, *names) if f'"{name}"' not in code and f"'{name}'" not in code]


def test_prose_is_of_single_lines() -> None:
    texts = [text for section in PROSE.values() for text in section.values()]
    assert all(text == " ".join(text.split()) for text in texts)
