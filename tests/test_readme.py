"""The README's Python runs as it stands, and the commands it shows exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from withstand.cli import main
from withstand.recipe_file import packaged_recipes

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[number], f"README block {number}", "exec"), {})


def commands() -> list[list[str]]:
    """The ``withstand`` lines of the README, as words without comments."""
    lines = [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()]
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
