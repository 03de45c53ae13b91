"""One call measures a run, whichever command asks: what was found before stays, or the request is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from withstand import bayes
from withstand.attacks import PGD
from withstand.core.run_folder import RunFolder
from withstand.evaluation import Evaluation
from withstand.recipes.schema import BayesSettings, DataSettings, ModelSettings
from withstand.reporting.table import select
from withstand.results import read_results
from withstand.results.measurements import ATTACKED
from withstand.runs.adoption import adopt_model
from withstand.runs.stages import measure_run
from withstand.types import RunFolderError

ATTACK = {"class_path": "Attacks", "init_args": {"attacks": [{"class_path": "PGD"}], "epsilons": [0.05]}}
FEW = {"num_samples": 2, "attack_samples": 1}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A net of random weights, never trained."""
    model = ModelSettings("mlp", options={"hidden": [8]}, bayes=BayesSettings(bayes.Posterior()))
    adopt_model(RunFolder(tmp_path / "run"), DataSettings("digits"), model, None, command="")
    return RunFolder(tmp_path / "run")


def measured(run: RunFolder, *meters: Any, num_examples: int | None = 20, **sampling: int) -> Evaluation:
    sizes = {} if num_examples is None else {"num_examples": num_examples}
    return measure_run(
        run.path, meters, sizes=sizes, overrides=[], command="", stage="attack", sampling=sampling
    )


def test_measure_run_leaves_what_was_measured_before(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    perturb = PGD.perturb

    def noting(attack: PGD, model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
        asked.append(len(images))
        return perturb(attack, model, images, labels, **options)

    monkeypatch.setattr(PGD, "perturb", noting)
    first = measured(run, ATTACK, **FEW)
    assert asked
    asked.clear()
    second = measured(run, {"class_path": "Uncertainty", "init_args": {"num_samples": 2}}, num_examples=None)
    assert len(second.rows) == 20
    assert second.results.uncertainty is not None
    pd.testing.assert_frame_equal(select(second.table, ATTACKED), select(first.table, ATTACKED))
    pd.testing.assert_frame_equal(second.rows[list(first.rows)], first.rows)
    named = [meter["class_path"].rpartition(".")[2] for meter in second.results.settings["meters"]]
    assert named == ["Attacks", "Uncertainty"]
    stored = read_results(run)
    assert stored is not None
    assert stored[0] == second.results


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"num_examples": 10}, r"was evaluated on 20 examples.*leave --num_examples out.*num_examples=10"),
        ({"num_samples": 3}, r"answers drawn otherwise.*leave --num_samples out"),
    ],
)
def test_measure_run_refuses_other_examples_or_draws_than_before(
    run: RunFolder, asked: dict[str, int], text: str
) -> None:
    first = measured(run, ATTACK, **FEW)
    before = {file: file.read_bytes() for file in (run.examples, run.measurements, run.metrics)}
    with pytest.raises(RunFolderError, match=text):
        measured(run, {"class_path": "NoiseCurve"}, **asked)
    assert {file: file.read_bytes() for file in before} == before
    again = measured(run, ATTACK, **FEW)  # the same is no other
    pd.testing.assert_frame_equal(again.rows, first.rows)


def test_measure_run_takes_over_nothing_of_other_weights(run: RunFolder, tmp_path: Path) -> None:
    first = measured(run, ATTACK, **FEW)
    weights = load_file(run.last_weights)
    save_file({name: -values for name, values in weights.items()}, run.last_weights)
    other = RunFolder(tmp_path / "other")
    shutil.copytree(run.path, other.path, ignore=shutil.ignore_patterns("evaluation", "metrics.json"))
    results, fresh = measured(run, ATTACK, **FEW), measured(other, ATTACK, **FEW)
    pd.testing.assert_frame_equal(results.rows, fresh.rows)
    assert not results.rows["prediction"].equals(first.rows["prediction"])
