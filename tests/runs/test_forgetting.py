"""What a run was measured by can be taken back, and stays away."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from withstand.cli.entry import main
from withstand.core.run_folder import RunFolder
from withstand.evaluation import attacking
from withstand.recipes.parsing import parse_recipe
from withstand.reporting.table import rows
from withstand.results import Results, read_results
from withstand.results.measurements import ATTACKED, CERTIFIED
from withstand.runs.forgetting import forget
from withstand.types import RunFolderError

_RECIPE = """\
title: What it says
data: {name: digits, train_size: 40, validation_size: 20}
model: {name: mlp, options: {hidden: [8]}}
training: {epochs: 1, batch_size: 20, accelerator: cpu}
evaluation:
  num_examples: 12
  meters:
    - class_path: Attacks
      init_args:
        attacks:
          - {class_path: PGD, init_args: {num_steps: 2}}
          - {class_path: PGD, init_args: {num_steps: 3}}
        epsilons: [0.02, 8/255]
    - class_path: Suite
      init_args: {level: fast, epsilons: [0.02, 0.3], norms: [2, inf]}
    - class_path: Certificate
      init_args: {norm: 2, epsilons: [0.02, 0.3]}
    - class_path: NoiseCurve
      init_args: {num_levels: 2}
"""
_PGD = ["pgd-2-linf@0.02", "pgd-2-linf@0.0313725"]
_PGD_3 = ["pgd-3-linf@0.02", "pgd-3-linf@0.0313725"]
_FAST = ["fast-l2@0.02", "fast-l2@0.3", "fast-linf@0.02", "fast-linf@0.3"]
_PROVEN = ["certified-l2@0.02", "certified-l2@0.3"]
_NOISE = ["accuracy under noise", "agreement under noise"]
_WHOLE = {*_PGD, *_PGD_3, *_FAST, *_PROVEN, *_NOISE}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is evaluated, to be copied."""
    folder = tmp_path_factory.mktemp("forgetting")
    (folder / "mine.yaml").write_text(_RECIPE)
    assert main(["run", str(folder / "mine.yaml"), f"--out={folder / 'run'}"]) == 0
    return folder / "run"


@pytest.fixture
def run(evaluated: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(evaluated, tmp_path / "run")))


@pytest.fixture
def attacked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was attacked anew, at which epsilon."""
    names: list[str] = []
    attack = attacking._Run.attack

    def noting(of: Any, plan: Any, epsilon: float, before: Any) -> Any:
        names.append(attacking.column(plan.name, epsilon))
        return attack(of, plan, epsilon, before)

    monkeypatch.setattr(attacking._Run, "attack", noting)
    return names


def held(run: RunFolder) -> tuple[Results, pd.DataFrame]:
    known = read_results(run)
    assert known is not None
    return known


def measured(run: RunFolder) -> set[str]:
    """All figures but those that come with others; rows, table and infos agree on them."""
    results, table = held(run)
    shown = rows(table)
    in_table = {attacking.column(row.by, row.level) for row in shown if row.measure in (ATTACKED, CERTIFIED)}
    named = [name for name in map(str, pd.read_csv(run.examples)) if "@" in name]
    assert {name for name in named if not name.endswith((":prediction", ":by"))} == in_table
    infos = [*(info.name for info in results.attacks), *(info.name for info in results.certificates)]
    assert set(infos) == {name.partition("@")[0] for name in in_table}
    noise = {measure for measure in table.measure if measure in _NOISE}
    return {name for name in in_table if not name.startswith("worst-")} | noise


def forget_by_command(run: RunFolder, *names: str) -> int:
    return main(["evaluate", str(run.path), *(f"--forget={name}" for name in names)])


@pytest.mark.parametrize(
    ("names", "gone"),
    [
        (["pgd-2-linf"], _PGD),
        (["pgd-2-linf@8/255"], _PGD[1:]),
        (["pgd-2-linf@0.02", "pgd-3-linf@8/255"], [_PGD[0], _PGD_3[1]]),
        (["Attacks"], [*_PGD, *_PGD_3]),
        (["fast-linf"], _FAST[2:]),
        (["fast-linf@0.3"], _FAST[3:]),
        (["certified accuracy"], _PROVEN),
        (["certified-l2@0.3"], _PROVEN[1:]),
        (["accuracy under noise"], _NOISE),
        (["fast-linf", "NoiseCurve", "Certificate"], [*_FAST[2:], *_NOISE, *_PROVEN]),
        (["attacked accuracy", "certified-l2"], [*_PGD, *_PGD_3, *_FAST, *_PROVEN]),
    ],
)
def test_forget_takes_back_what_is_named_and_computes_nothing(
    run: RunFolder, attacked: list[str], names: list[str], gone: list[str]
) -> None:
    before = pd.read_csv(run.examples)
    assert measured(run) == _WHOLE
    forget(run.path, names, command="it")
    assert measured(run) == _WHOLE - set(gone)
    assert attacked == []
    left = pd.read_csv(run.examples)
    pd.testing.assert_frame_equal(left, before[list(left)])
    assert parse_recipe(run.recipe).recipe.title == ""
    assert run.read_json(run.environment)["measured_by"][-1] == "it"


def test_what_is_forgotten_is_told_and_not_measured_by_the_next_evaluation(
    run: RunFolder, attacked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    page = run.report.read_text()
    assert forget_by_command(run, "pgd-2-linf", "accuracy under noise") == 0
    told = capsys.readouterr().out.split("forgotten: ")[1].split("\n")[0]
    assert {*_PGD, *_NOISE} <= set(told.split(", "))
    assert "pgd-2-linf" in page
    now = run.report.read_text()
    assert "pgd-2-linf" not in now.replace("--forget=pgd-2-linf", "")
    assert main(["evaluate", str(run.path)]) == 0
    assert measured(run) == _WHOLE - {*_PGD, *_NOISE}
    assert attacked == []


def test_forget_comes_back_where_it_is_asked_for_again(run: RunFolder, attacked: list[str]) -> None:
    forget(run.path, ["pgd-2-linf"], command="")
    assert main(["attack", str(run.path), "--num_steps=2", "--norm=inf", "--epsilon=0.02"]) == 0
    assert measured(run) == _WHOLE - {_PGD[1]}
    assert attacked == []


def test_forget_of_an_attack_on_what_is_certified_attacks_that_otherwise(
    run: RunFolder, attacked: list[str]
) -> None:
    forget(run.path, ["fast-l2@0.3"], command="")
    assert attacked == ["pgd-20-margin-l2@0.3"]
    assert measured(run) == {*_WHOLE, *attacked} - {"fast-l2@0.3"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pgd-2-linf@0.5", "did you mean 'pgd-2-linf@0.02'?"),
        ("NoiseCurv", "did you mean 'NoiseCurve'?"),
        ("", "Nothing that was measured is called ''"),
        ("clean accuracy", "measured always"),
        ("worst-linf", "comes with other results"),
        ("worst-linf@0.02", "comes with other results"),
        ("vanishing gradients", "comes with other results"),
        ("calibration error", "measured always"),
    ],
)
def test_forget_of_what_cannot_be_forgotten_changes_nothing(run: RunFolder, name: str, text: str) -> None:
    files = (run.examples, run.measurements, run.metrics, run.report, run.recipe)
    before = [file.read_bytes() for file in files]
    with pytest.raises(RunFolderError) as refused:
        forget(run.path, ["pgd-2-linf", name], command="")
    assert text in str(refused.value)
    assert "pgd-2-linf@0.02, " in str(refused.value)  # what there is
    assert [file.read_bytes() for file in files] == before


def test_forget_with_other_values_of_the_evaluation_is_refused(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run.path), "--forget=Suite", "--evaluation.num_examples=3"]) == 2
    assert "leave --evaluation.num_examples out" in capsys.readouterr().err
    assert measured(run) == _WHOLE


def test_forget_of_a_run_without_results_is_refused(run: RunFolder) -> None:
    run.metrics.unlink()
    with pytest.raises(RunFolderError, match="holds no results"):
        forget(run.path, ["Suite"], command="")
