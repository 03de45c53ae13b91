"""Kept results are run anew where something that decides them has changed, compared, and kept again."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

import withstand as ws
from withstand.cli import main
from withstand.core.run_folder import RunFolder
from withstand.reporting.differences import Difference, differences
from withstand.reporting.read import read_run
from withstand.results.measurements import ATTACKED, Measurement, table_of
from withstand.results.results import Published
from withstand.runs.code_digest import code_digest, files_of
from withstand.runs.reproducing import KEPT_FILES, names_of, plan

RECIPE = """
name: small
data: {name: digits, train_size: 100}
model: {name: mlp, options: {hidden: [8]}}
objective: {class_path: CrossEntropy}
training: {epochs: 1}
evaluation:
  num_examples: 30
  meters:
  - class_path: Attacks
    init_args: {attacks: [{class_path: PGD, init_args: {num_steps: 1}}], epsilons: [0.1]}
published: [{measure: clean, accuracy: 0.5, source: somebody}]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run; it is only read."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["run", "small.yaml"]) == 0
    return folder


@pytest.fixture
def here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the recipe, and the run's small files in results/set/small."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(finished / "small.yaml", tmp_path)
    kept = tmp_path / "results" / "set" / "small"
    kept.mkdir(parents=True)
    for name in KEPT_FILES:
        shutil.copy(finished / "runs" / "small" / name, kept)
    (tmp_path / "results" / "benchmarks").mkdir()
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["reproduce", *arguments]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_a_kept_run_comes_out_the_same_and_is_then_left_alone(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = here / "results" / "set" / "small"
    before = {name: (kept / name).read_bytes() for name in KEPT_FILES}
    shown = said(capsys, "--check")
    assert "benchmarks: holds no run; not by this command, but by python benchmarks/NAME.py" in shown
    assert re.search(
        r"set/small: would be run in runs/reproduce/set/small-\w{8} \(not reproduced before", shown
    )
    assert not (here / "runs").exists()
    shown = said(capsys, "set")
    figures = len(read_run(kept).table)
    assert f"set/small: {figures} figures: {figures} equal" in shown
    assert "interval now" in shown  # of the one beside which something is published
    assert re.search(r"published 50.%.\(somebody\)", shown)
    assert (kept / "measurements.csv").read_bytes() == before["measurements.csv"]
    about = json.loads((kept / "environment.json").read_text())
    assert about["command"] == "withstand run small.yaml"
    assert about["measured_by"] == ["withstand reproduce set/small"]
    assert set(about["reproduced"]) == {"data", "code", "versions"}
    assert {file.name for file in kept.iterdir()} == {*KEPT_FILES}
    assert "set/small: nothing has changed" in said(capsys)
    shown = said(capsys, "--again")
    assert "(asked for again) epoch 1" in shown  # trained from its start
    assert f"{figures} equal" in shown


def test_what_has_changed_is_run_anew_and_what_moved_is_said(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = RunFolder(here / "results" / "set" / "small")
    now = plan(here / "results", "set/small").made_by
    about = kept.read_json(kept.environment)
    kept.write_json(kept.environment, {**about, "reproduced": dict(now)})
    assert plan(here / "results", "set/small").reasons == []
    for part in now:
        kept.write_json(kept.environment, {**about, "reproduced": {**now, part: "another"}})
        assert plan(here / "results", "set/small").reasons == [f"other {part}"]
    kept.write_json(kept.environment, {**about, "reproduced": dict(now)})
    (here / "small.yaml").write_text(RECIPE + "seed: 3\n")
    shown = said(capsys, "set/small")
    assert "other recipe" in shown
    assert re.search(r"clean accuracy: [\d.]+.% then, [\d.]+.% now, \w+ its interval", shown)
    assert "seed: 3" in kept.recipe.read_text()


def test_the_kept_recipe_is_run_where_its_command_cannot_be_read(
    here: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (here / "small.yaml").unlink()
    folder = here / "results" / "set" / "small"
    assert plan(here / "results", "set/small").command == "withstand reproduce set/small"
    assert "its command cannot be read: There is no recipe 'small.yaml'" in caplog.text
    (folder / "model.safetensors").touch()
    with pytest.raises(ws.RunFolderError, match="holds weights"):
        plan(here / "results", "set/small")
    assert main(["reproduce"]) == 2
    assert "1 of 1 could not be reproduced: set/small" in " ".join(capsys.readouterr().err.split())


def test_runs_made_in_python_are_passed_over_and_the_cost_of_several_is_said(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = here / "results" / "set"
    for other in ("again", "python", "arrays"):
        shutil.copytree(folder / "small", folder / other)
    for name, change in (("python", {"unspelled": ["objective"]}), ("arrays", {"data": {"name": None}})):
        file = folder / name / "recipe.yaml"
        file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **change}))
    shown = said(capsys, "--check")
    assert "set/python: made in Python of objective that no recipe spells; not by this command" in shown
    assert "set/arrays: made in Python of data that no recipe spells; not by this command" in shown
    assert re.search(r"2 of 2 have to be run anew; when they were kept, they took [\d.]+ \w+", shown)


def test_names_are_of_runs_or_of_folders_with_runs(here: Path) -> None:
    results = here / "results"
    assert names_of(results, []) == names_of(results, ["set"]) == names_of(results, ["set/small"])
    for wrong, near in (("sett", "'set'"), ("set/smal", "'set/small'")):
        with pytest.raises(ws.RunFolderError, match=f"did you mean {near}"):
            names_of(results, [wrong])
    with pytest.raises(ws.RunFolderError, match=r"no folder elsewhere with kept results.*--results=DIR"):
        names_of(Path("elsewhere"), ["set"])


def test_code_of_a_run_is_what_its_recipe_names_and_what_that_imports() -> None:
    def names(*classes: str) -> set[str]:
        return {file.stem for file in files_of(classes)}

    assert {"adversarial", "norms"} <= names("withstand.objectives.Adversarial")
    assert "gradient_penalties" in names("withstand.penalties.InputGradient")
    assert "gradient_penalties" not in names("withstand.objectives.CrossEntropy", "torch.optim.Adam")
    plain = {
        "objective": {"class_path": "withstand.objectives.CrossEntropy"},
        "training": [{"class_path": "a.B"}],
    }
    penalised = {"terms": [plain, {"class_path": "withstand.penalties.InputGradient"}]}
    assert code_digest(plain) == code_digest({"seed": 1, **plain}) != code_digest(penalised)


@pytest.mark.parametrize(
    ("then", "now", "verdict"),
    [
        ((0.5, 0.4, 0.6), (0.5, 0.4, 0.6), "equal"),
        ((0.5, 0.4, 0.6), (0.6, 0.5, 0.7), "within its interval"),
        ((0.5, 0.4, 0.6), (0.61, 0.5, 0.7), "outside its interval"),
        ((0.5, None, None), (0.6, None, None), "changed"),
        (None, (0.5, 0.4, 0.6), "new"),
        ((0.5, 0.4, 0.6), None, "gone"),
    ],
)
def test_verdicts_on_figures(
    then: tuple[float, ...] | None, now: tuple[float, ...] | None, verdict: str
) -> None:
    tables = [table_of([] if part is None else [_row(*part)]) for part in (then, now)]
    (difference,) = differences(*tables)
    assert difference.verdict == verdict
    figures = [Published("attacked", 0.4, "a", "2", 0.2), Published("attacked", 0.3, "b", "2", 0.1)]
    assert difference.published(figures) == figures[1]
    assert Difference(None, _row(0.5, None, None)).published(figures[:1]) is None


def _row(value: float, lower: float | None, upper: float | None) -> Measurement:
    return Measurement(ATTACKED, "pgd", "2", 0.1, value, lower, upper)
