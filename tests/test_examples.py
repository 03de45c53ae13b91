"""The scripts and the notebook of examples/ run as they are, and print and write what they promise."""

from __future__ import annotations

import ast
import json
import re
import runpy
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import withstand as ws

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
NOTEBOOK = ROOT / "examples" / "first_steps.ipynb"
CELLS: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = {cell["id"]: "".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, so that nothing is written elsewhere."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a script prints, run as a user runs it."""
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def printed(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a script prints; short enough to be read."""
    out = said(name, capsys)
    assert 5 < len(out.splitlines()) < 40
    assert max(map(len, out.splitlines())) <= 110
    return out


def numbers(line: str) -> list[float]:
    """The numbers of a line, 12.5% as 12.5."""
    return [float(found) for found in re.findall(r"(?<![\w.-])\d+(?:\.\d+)?(?![\w.])", line)]


def table(out: str, pattern: str) -> list[list[float]]:
    """The numbers of the lines that begin so, without what they begin with."""
    return [numbers(line[found.end() :]) for line in out.splitlines() if (found := re.match(pattern, line))]


def is_falling(values: list[float]) -> bool:
    return all(former >= later for former, later in pairwise(values))


def test_a_network_of_ones_own_is_attacked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed("attack_your_network", capsys)
    ((clean,),) = table(out, " {5,}(?=[\\d.]+%)")
    attacked = {name: table(out, f"{name} ")[0] for name in ("pgd-1-linf", "pgd-40-linf", "worst-linf")}
    assert all(is_falling([clean, *values]) for values in attacked.values())
    columns = zip(*attacked.values(), strict=True)
    assert all(is_falling(list(values)) for values in columns)  # the worst is the worst of all
    assert clean > 90 > 20 > attacked["worst-linf"][-1]
    assert table(out, "clipped ")[0][0] == clean
    assert out.count("passed:") >= 3
    assert "FAILED" not in out
    page = (folder / "runs" / "my-network" / "report.html").read_text(encoding="utf-8")
    assert "Accuracy under attack" in page


@pytest.mark.usefixtures("folder")
def test_a_network_is_certified(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed("certify_a_network", capsys)
    ((clean,),) = table(out, "clean accuracy")
    for norm in ("2", "inf"):
        rows = table(out, f" +{norm} ")
        assert len(rows) == 3
        for _, box, ball, both, linear, best, attacked, still_open in rows:
            assert max(box, ball, both, linear) <= best <= attacked <= clean
            assert still_open == pytest.approx(attacked - best)
        assert is_falling([row[5] for row in rows])
        assert rows[0][5] > 80
    radii = table(out, " +certified radius")
    assert [median < largest for median, largest in radii] == [True, True]
    assert "Proven:" in out
    assert "Open:" in out


@pytest.mark.usefixtures("folder")
def test_the_pieces_work_in_a_loop(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed("your_own_loop", capsys)
    epochs = table(out, r"(?= +\d+ )")
    assert [row[0] for row in epochs] == list(range(12))
    epsilons, rates, clean, attacked = ([row[column] for row in epochs] for column in (1, 2, 5, 6))
    assert is_falling(epsilons[::-1])
    assert epsilons[-1] == 0.1
    assert is_falling(rates)
    assert rates[-1] < rates[0] / 5
    assert all(robust < plain for robust, plain in zip(attacked, clean, strict=True))
    ((test_clean, test_attacked, _),) = table(out, "The best epoch")
    assert test_clean > 90 > test_attacked > 70


@pytest.mark.usefixtures("folder")
def test_a_bayesian_network_is_attacked(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed("bayesian_under_attack", capsys)
    ((clean, entropy, _),) = table(out, r" +0.0 +\(clean\)")
    for name in ("one draw a step", "mean of 20 draws", "mean weights"):
        rows = table(out, rf" +[\d.]+ +{name}")
        assert is_falling([clean, *(row[0] for row in rows)])
        assert rows[-1][0] < clean - 30
        assert all(row[1] > entropy for row in rows)  # less sure of what is attacked
        assert all(0 < row[2] < row[1] for row in rows)


@pytest.mark.usefixtures("folder")
def test_certified_training_proves_more_than_its_twin(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed("certified_training", capsys)
    plain, trained = table(out, "plain"), table(out, "certified")
    for clean, _, attacked, certified in plain + trained:
        assert certified <= attacked <= clean
    # Within a small epsilon linear bounds prove much of the other one, too.
    assert trained[1][3] > plain[1][3]
    assert trained[-1][3] > plain[-1][3] + 10
    assert plain[0][0] > trained[0][0]  # and what it costs


@pytest.mark.usefixtures("folder")
def test_a_loop_runs_in_mixed_precision_and_in_parts(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed("amp_and_accumulation", capsys)
    assert len(table(out, r"epoch \d: adversarial ")) == 8
    ((_, clean),), attacked = table(out, " +clean accuracy"), table(out, "attacked accuracy")
    assert is_falling([clean, *(row[1] for row in attacked)])
    assert attacked[-1][1] > 0.6


@pytest.mark.usefixtures("folder")
@pytest.mark.filterwarnings("ignore:::lightning")  # its advice, and what it calls that is deprecated
def test_lightning_trains_and_attacks(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lightning")
    out = said("lightning_module", capsys)
    names = ("loss", "epsilon", "input_gradient", "test_accuracy", "test_attacked_accuracy")
    logged = {name: table(out, f" +{name} ")[0][0] for name in names}
    assert logged["epsilon"] == 0.1
    assert logged["test_accuracy"] > 0.9
    assert 0.5 < logged["test_attacked_accuracy"] < logged["test_accuracy"]


@pytest.fixture
def _fresh_accelerate() -> Iterator[None]:
    """What accelerate keeps for a whole process begins anew."""
    yield
    pytest.importorskip("accelerate").state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("folder", "_fresh_accelerate")
def test_accelerate_trains_and_certifies(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("accelerate")
    out = printed("accelerate_loop", capsys)
    assert len(table(out, r"epoch \d: clean ")) == 8
    certified = [row[1] for row in table(out, " *certified accuracy")]
    assert is_falling(certified)
    assert certified[1] > 0.7


@pytest.mark.usefixtures("folder", "_fresh_accelerate")
@pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")
def test_trainer_of_hugging_face_trains(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    out = said("hugging_face_trainer", capsys)
    assert len(re.findall("'adversarial': ", out)) == 8
    ((_, clean),), attacked = table(out, " *clean accuracy"), table(out, "attacked accuracy")
    assert is_falling([clean, *(row[1] for row in attacked)])
    assert attacked[-1][1] > 0.6


def test_the_notebook_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell, source in CODE.items():
        exec(compile(source, cell, "exec"), names)
    out = capsys.readouterr().out
    (plain,), (robust,) = (table(out, f"{name} +clean") for name in ("plain", "robust"))
    assert robust[2] > plain[2] + 10
    curve: pd.DataFrame = names["curve"].pivot(index=["training", "epsilon"], columns="kind")["accuracy"]
    assert (curve["certified"] <= curve["attacked"]).all()
    assert len(names["broken"]) == 8
    assert len(names["noise"]) == 12
    assert set(names["table"]["measure"]) >= {"clean accuracy", "attacked accuracy", "certified accuracy"}
    for page in ("robust/report.html", "both.html"):
        assert f"runs/{page}" in out
        assert (folder / "runs" / page).is_file()


def test_the_notebook_is_committed_without_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)
    for cell in CELLS:
        assert re.fullmatch(r"[\w-]{1,64}", cell["id"])
        assert cell["metadata"] == {}
        assert isinstance(cell["source"], list)
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
        else:
            assert set(cell) == {"cell_type", "id", "metadata", "source"}
            assert cell["cell_type"] == "markdown"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_scripts_are_short(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    assert f"python examples/{script.name}" in (ast.get_docstring(ast.parse(text)) or "")
    assert "def main() -> None:" in text
    assert text.endswith('if __name__ == "__main__":\n    main()\n')


@pytest.mark.parametrize(
    "source",
    [*(script.read_text(encoding="utf-8") for script in SCRIPTS), "\n".join(CODE.values())],
    ids=[*(script.stem for script in SCRIPTS), NOTEBOOK.stem],
)
def test_examples_use_public_names(source: str) -> None:
    tree = ast.parse(source)
    imported = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)}
    assert {line for line in imported if "withstand" in line} == {"import withstand as ws"}
    for node in ast.walk(tree):
        words = ast.unparse(node).split(".") if isinstance(node, ast.Attribute) else []
        if words[:1] == ["ws"] and all(word.isidentifier() for word in words):
            place: Any = ws
            for word in words[1:]:
                assert word in getattr(place, "__all__", dir(place)), words
                assert not word.startswith("_"), words
                place = getattr(place, word)


def test_the_page_shows_every_example() -> None:
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert len(SCRIPTS) == 9
    for script in SCRIPTS:
        assert f'```{{.py}}\n--8<-- "examples/{script.name}"\n```' in page
    for link in re.findall(r'href="([^"]+)"', page):
        assert (ROOT / "docs" / link).is_file(), link
    assert len(re.findall("href=", page)) == len(SCRIPTS) + 1
