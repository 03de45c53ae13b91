"""The Python of the README and of docs/ runs as it stands, and the commands of the README exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from withstand.cli.entry import main
from withstand.recipes.parsing import packaged_recipes

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


PYTHON = {
    f"{page.stem}-{number}": block
    for page in (README, *sorted((ROOT / "docs").glob("*.md")))
    for number, block in enumerate(blocks(page, "python"))
}


@pytest.mark.parametrize("block", PYTHON.values(), ids=list(PYTHON))
def test_python_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "documentation", "exec"), {})


def commands() -> list[list[str]]:
    """The ``withstand`` lines of the README, as words without comments."""
    lines = [
        shlex.split(line, comments=True) for block in blocks(README, "sh") for line in block.splitlines()
    ]
    return [words[1:] for words in lines if words[:1] == ["withstand"]]


def test_commands_name_recipes_that_exist() -> None:
    recipes = {words[1] for words in commands() if words[0] in ("run", "train")} - {"RECIPE"}
    assert recipes
    assert recipes <= set(packaged_recipes())


def test_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for name in {words[0] for words in commands()}:
        with pytest.raises(SystemExit):
            main([name, "--help"])
    assert "usage" in capsys.readouterr().out
