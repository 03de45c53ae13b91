"""The Python of the README and of docs/ runs as it is written, and its commands, recipes and links exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from withstand.cli import main
from withstand.recipes.parsing import find_recipe, parse_recipe

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
OWN = ROOT / "docs" / "own.md"
PAGES = (README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
PACKAGED = {file.stem for file in (ROOT / "src").rglob("*.yaml")}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The lines of a page's shell blocks, as words without comments."""
    lines = [shlex.split(line, comments=True) for block in blocks(page, "sh") for line in block.splitlines()]
    return [words for words in lines if words]


def named(command: str) -> dict[str, list[str]]:
    """The different commands of all pages that begin so, without that beginning."""
    commands_by_text = {
        shlex.join(words): words[1:] for page in PAGES for words in commands(page) if words[0] == command
    }
    assert commands_by_text
    return commands_by_text


PYTHON = {
    f"{page.stem}-{number}": (page, block)
    for page in PAGES
    if page.stem != "kinds"  # whose blocks test_kinds.py runs, each with what is to come of it
    for number, block in enumerate(blocks(page, "python"))
}
WITHSTAND = named("withstand")
RUNS = {name: words for name, words in WITHSTAND.items() if words[0] in ("run", "train")}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with the files that blocks of the pages are by their first line."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name, content in re.findall(r"```\w+\n# (\S+\.\w+)\n(.*?)```", text, flags=re.DOTALL):
            (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("page", "block"), PYTHON.values(), ids=list(PYTHON))
def test_python_blocks_of_pages_run(page: Path, block: str) -> None:
    exec(compile(block, str(page), "exec"), {})


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("words", RUNS.values(), ids=list(RUNS))
def test_run_commands_of_pages_are_understood(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    explains = any(word.endswith(("help", "help-all")) or ".help=" in word for word in words)
    if "RECIPE" in words:
        words = ["run", "--help-all"]
    with pytest.raises(SystemExit) as stopped:
        main([*words, *([] if explains or "--print_config" in words else ["--print_config"])])
    assert stopped.value.code in (None, 0), capsys.readouterr().err


@pytest.mark.parametrize("name", sorted({words[0] for words in WITHSTAND.values()} - {"run", "train"}))
def test_commands_of_pages_have_the_options_that_are_written(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help-all"])
    explained = set(re.findall(r"--[\w.]+", capsys.readouterr().out))
    for words in WITHSTAND.values():
        if words[0] == name:
            keys = [re.split(r"\+?=", word)[0].split(".") for word in words if word.startswith("--")]
            for key in keys:
                assert any(".".join(key[:end]) in explained for end in range(1, len(key) + 1)), words


def test_first_commands_of_the_quick_start_need_only_what_those_before_made() -> None:
    page = ROOT / "docs" / "quickstart.md"
    block = next(block for block in blocks(page, "sh") if block.startswith("withstand"))
    made: set[str] = set()
    for line in block.splitlines():
        _, verb, *words = shlex.split(line, comments=True)
        assert {word for word in words if word.startswith("runs/")} <= made, line
        recipe = next((word for word in words if word in PACKAGED), None)
        assert recipe is None or parse_recipe(find_recipe(recipe)).recipe.data.name == "digits", line
        if verb == "run" and recipe:
            out = [word.removeprefix("--out=") for word in words if word.startswith("--out=")]
            made.update(out or [f"runs/{recipe}"])
    assert len(made) > 1


def test_sweeps_and_recipes_that_are_named_exist() -> None:
    targets = {words[1] for words in WITHSTAND.values() if words[0] in ("sweep", "recipes") and words[1:]}
    assert {name for name in targets if name.isascii() and name[0] != "-"} <= PACKAGED | {"NAME"}


def test_targets_extras_and_scripts_that_are_named_exist() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {words[0] for words in named("make").values()} <= set(targets)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras_named = re.findall(r"\[([\w,]+)\]", " ".join(words[1] for words in named("pip").values()))
    assert set(",".join(extras_named).split(",")) <= set(extras["optional-dependencies"])
    for page in PAGES:
        for script in re.findall(
            r"python ((?:benchmarks|examples|tools)/\w+\.py)", page.read_text(encoding="utf-8")
        ):
            assert (ROOT / script).is_file(), (page, script)


def test_links_of_pages_outside_the_site_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#:]+)[^)]*\)", README.read_text(encoding="utf-8")):
        assert (ROOT / link).exists(), link


def test_commands_on_ones_own_model_run(folder: Path) -> None:
    """Those of the page, one after another, and so those of the README."""
    saving = next(block for block in blocks(OWN, "python") if "my_weights.pt" in block)
    exec(compile(saving, str(OWN), "exec"), {})
    ours = [words for words in commands(OWN) if any("my" in word for word in words)]
    in_readme = [words for words in commands(README) if any("my" in word for word in words)]
    assert in_readme
    assert all(words in ours for words in in_readme)
    for _, *words in ours:
        short = ["--training.epochs=1", "--evaluation.num_examples=10"] if words[0] == "run" else []
        assert main([*words, *short]) in (None, 0)
    assert (folder / "runs" / "my-model" / "report.html").is_file()
    assert (folder / "runs" / "my-robust-model" / "report.html").is_file()
