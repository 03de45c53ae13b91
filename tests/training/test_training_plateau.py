"""Learning rates and an end that follow the validation scores."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.training.collapses_once import CollapsesOnce
from tests.training.stop_after import StopAfter
from withstand.core.schedules import StepDecay
from withstand.data import Dataset
from withstand.models import load_weights
from withstand.objectives import CrossEntropy
from withstand.training import Plateau, Rollback, TrainingSettings, fit, loop
from withstand.training.checkpoint import Row, write_checkpoint
from withstand.training.validation import num_bad_epochs, scores
from withstand.types import CheckpointError, DataError

SETTINGS = TrainingSettings(
    epochs=12,
    batch_size=48,  # two steps an epoch
    optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    accelerator="cpu",
)
SCORES = st.lists(st.sampled_from([-math.inf, 0.0, 0.25, 0.5, 0.75, 1.0]), max_size=40)


def scored(monkeypatch: pytest.MonkeyPatch, values: Sequence[float]) -> None:
    """Gives each epoch its score by the state of the weights' own counter, so that resuming repeats it."""

    def accuracies(model: nn.Module, *others: object) -> dict[str, float]:
        batches = next(
            int(m.num_batches_tracked or 0) for m in model.modules() if isinstance(m, nn.BatchNorm2d)
        )
        return {"validation_accuracy": values[batches // 2 - 1]}

    monkeypatch.setattr(loop, "accuracies", accuracies)


def run(
    model: nn.Module, dataset: Dataset, out: Path, settings: TrainingSettings, **options: Any
) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    trained = copy.deepcopy(model)
    objective = options.pop("objective", CrossEntropy())
    fit(trained, dataset, objective, settings, out=out, seed=3, **options)
    log = pd.read_csv(out / "train.csv", keep_default_na=False)
    return log.drop(columns="seconds"), trained.state_dict()


@given(SCORES, st.integers(0, 6), st.sampled_from([0.1, 0.5, 0.9]))
def test_plateau_rates_are_those_of_torch(values: list[float], patience: int, factor: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=factor, patience=patience, threshold=0.0, eps=0.0
    )
    plateau = Plateau(factor, patience)
    for num, value in enumerate(values, start=1):
        theirs.step(value)
        assert plateau.factor_after(values[:num]) == pytest.approx(optimizer.param_groups[0]["lr"])


@given(SCORES)
@example([])
def test_num_bad_epochs_counts_from_the_first_of_the_best(values: list[float]) -> None:
    best, num_bad = -math.inf, 0
    for value in values:
        best, num_bad = (value, 0) if value > best else (best, num_bad + 1)
    assert num_bad_epochs(values) == num_bad


def test_scores_of_an_epoch_done_again_are_those_of_the_last_row() -> None:
    def row(epoch: int, score: float, collapsed: int = 0) -> Row:
        return {"epoch": epoch, "validation_accuracy": score, "collapsed": collapsed}

    rows = [row(1, 0.5), row(2, 0.6), row(3, 0.9, 1), row(4, 0.9, 1)]
    assert scores(rows, 4) == [0.5, 0.6, -math.inf, -math.inf]
    assert scores(rows, 2) == [0.5, 0.6]  # both were rolled back
    assert scores([*rows, row(3, 0.7)], 3) == [0.5, 0.6, 0.7]
    assert scores([{**row(1, 0.5), "validation_robust_accuracy": 0.2}], 1) == [0.2]
    assert scores([row(1, 0.5), {**row(2, 0.0), "validation_accuracy": ""}, row(3, 0.6)], 3) == [0.5, 0.6]


def test_plateau_cuts_the_rate_beside_its_schedule(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, [0.5, 0.6, 0.6, 0.4, 0.5, 0.7, 0.1, 0.2])
    decay = StepDecay(factor=0.1, epochs=7)
    settings = replace(SETTINGS, epochs=8, plateau=Plateau(factor=0.5, patience=1), lr_factor=decay)
    log, _ = run(tiny_model, tiny_dataset, tmp_path, settings)
    assert list(log["learning_rate"]) == pytest.approx([0.1] * 4 + [0.05] * 3 + [0.005])


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 4), (3, 8), (4, 12)])
def test_early_stopping_stops_when_no_epoch_was_better(
    tiny_model: nn.Module,
    tiny_dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    patience: int,
    epochs: int,
) -> None:
    values = [0.5, 0.6, 0.6, 0.4, 0.7, 0.7, 0.7, 0.7, 0.8, 0.8, 0.8, 0.8]
    scored(monkeypatch, values)
    settings = replace(SETTINGS, early_stopping=patience)
    log, weights = run(tiny_model, tiny_dataset, tmp_path, settings)
    assert list(log["epoch"]) == list(range(1, epochs + 1))
    # At the last epoch of all nothing is stopped.
    stopped = f"stopped early: no better validation score for {patience} epoch{'s' if patience > 1 else ''}"
    assert list(log["note"]) == [""] * (epochs - 1) + ["" if epochs == 12 else stopped]
    again, same = run(tiny_model, tiny_dataset, tmp_path, settings)  # nothing is left to do
    pd.testing.assert_frame_equal(log, again)
    assert all(torch.equal(weights[name], same[name]) for name in weights)


@pytest.mark.parametrize("step", [1, 6, 9, 12])
@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
def test_plateau_training_resumed_ends_the_same(
    tiny_model: nn.Module,
    tiny_dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    checkpoint_seconds: float,
) -> None:
    scored(monkeypatch, [0.5, 0.6, 0.6, 0.4, 0.6, 0.5, 0.7, 0.9])
    settings = replace(
        SETTINGS, plateau=Plateau(0.1, 1), early_stopping=4, checkpoint_seconds=checkpoint_seconds
    )
    log, weights = run(tiny_model, tiny_dataset, tmp_path / "whole", settings)
    assert list(log["learning_rate"]) == pytest.approx([0.1] * 4 + [0.01] * 2)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_model, tiny_dataset, tmp_path / "cut", settings, observers=[StopAfter(step)])
    cut_log, cut_weights = run(tiny_model, tiny_dataset, tmp_path / "cut", settings)
    pd.testing.assert_frame_equal(log, cut_log)
    assert all(torch.equal(weights[name], cut_weights[name]) for name in weights)


def test_validation_now_and_then_leaves_other_epochs_without_a_score(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, [0.9, 0.5, 0.9, 0.6, 0.9, 0.5, 0.55])
    settings = replace(SETTINGS, epochs=7, validation_every=2)
    trained = copy.deepcopy(tiny_model)
    result = fit(trained, tiny_dataset, settings=settings, out=tmp_path)
    assert [row["validation_accuracy"] for row in result.rows] == ["", 0.5, "", 0.6, "", 0.5, 0.55]
    assert (result.best_epoch, result.best_score) == (4, 0.6)
    short = copy.deepcopy(tiny_model)
    fit(short, tiny_dataset, settings=replace(settings, epochs=4), out=tmp_path / "short")
    assert all(torch.equal(weight, result.best_weights[name]) for name, weight in short.state_dict().items())


@pytest.mark.parametrize("step", [7, 10])
def test_plateau_and_early_stopping_count_validations(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    scored(monkeypatch, [0.9, 0.5, 0.9, 0.6, 0.9, 0.5, 0.9, 0.4, 0.9, 0.9, 0.9, 0.9])
    settings = replace(SETTINGS, validation_every=2, plateau=Plateau(0.5, 0), early_stopping=2)
    log, weights = run(tiny_model, tiny_dataset, tmp_path / "whole", settings)
    assert list(log["learning_rate"]) == pytest.approx([0.1] * 6 + [0.05] * 2)
    assert log["note"].iloc[-1] == "stopped early: no better validation score for 2 validations"
    with pytest.raises(KeyboardInterrupt):
        run(tiny_model, tiny_dataset, tmp_path / "cut", settings, observers=[StopAfter(step)])
    cut_log, cut_weights = run(tiny_model, tiny_dataset, tmp_path / "cut", settings)
    pd.testing.assert_frame_equal(log, cut_log)
    assert all(torch.equal(weights[name], cut_weights[name]) for name in weights)


def test_without_validation_images_the_last_epoch_is_the_best_however_often_it_is_validated(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    empty = replace(tiny_dataset, validation=tiny_dataset.validation.subset(torch.arange(0)))
    log, weights = run(tiny_model, empty, tmp_path, replace(SETTINGS, epochs=3, validation_every=2))
    assert "validation_accuracy" not in log
    best = copy.deepcopy(tiny_model)
    load_weights(best, tmp_path / "model.safetensors")
    assert all(torch.equal(weight, weights[name]) for name, weight in best.state_dict().items())


@pytest.mark.parametrize("num_writes", range(1, 14))
def test_plateau_does_not_count_epochs_that_were_rolled_back(
    tiny_model: nn.Module,
    tiny_dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_writes: int,
) -> None:
    """Killed after any checkpoint file too."""

    def train(out: Path) -> tuple[pd.DataFrame, dict[str, Tensor]]:
        return run(tiny_model, tiny_dataset, out, settings, objective=CollapsesOnce(epoch=2, until=2))

    def write_then_die(path: Path, content: Mapping[str, Any]) -> None:
        write_checkpoint(path, content)
        written.append(path.name)
        if len(written) == num_writes:
            raise KeyboardInterrupt

    scored(monkeypatch, [0.5, 0.4, 0.3, 0.3, 0.3, 0.3])
    settings = replace(SETTINGS, plateau=Plateau(0.5, 1), early_stopping=4, rollback=Rollback())
    log, weights = train(tmp_path / "whole")
    assert list(log["epoch"]) == [1, 2, 3, 3, 3, 4, 5]
    assert list(log["learning_rate"]) == pytest.approx([0.1] * 5 + [0.05] * 2)
    written: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_checkpoint", write_then_die)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "cut")
    cut_log, cut_weights = train(tmp_path / "cut")
    pd.testing.assert_frame_equal(log, cut_log)
    assert all(torch.equal(weights[name], cut_weights[name]) for name in weights)


@pytest.mark.parametrize(
    "changed",
    [
        {"plateau": Plateau(0.5, 3)},
        {"plateau": None},
        {"early_stopping": 3},
        {"early_stopping": None},
        {"validation_every": 2},
    ],
)
def test_fit_takes_another_plateau_for_another_run(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path, changed: dict[str, Any]
) -> None:
    settings = replace(SETTINGS, epochs=1, plateau=Plateau(0.5, 2), early_stopping=2)
    run(tiny_model, tiny_dataset, tmp_path, settings)
    with pytest.raises(CheckpointError, match=r"another run \((plateau|early stopping|validation every): "):
        run(tiny_model, tiny_dataset, tmp_path, replace(settings, **changed))


@pytest.mark.parametrize("setting", [{"plateau": Plateau()}, {"early_stopping": 3}])
def test_plateau_without_validation_images_has_nothing_to_go_by(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path, setting: dict[str, Any]
) -> None:
    empty = replace(tiny_dataset, validation=tiny_dataset.validation.subset(torch.arange(0)))
    with pytest.raises(DataError, match=rf"training\.{next(iter(setting))} goes by.*validation_size"):
        run(tiny_model, empty, tmp_path, replace(SETTINGS, **setting))


@pytest.mark.parametrize("arguments", [{"factor": 1.0}, {"factor": 0.0}, {"patience": -1}])
def test_plateau_refuses_values_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Expected (factor between 0 and 1|patience of at least 0)"):
        Plateau(**arguments)


def test_early_stopping_refuses_values_out_of_range() -> None:
    with pytest.raises(ValueError, match="early_stopping of at least 1, but got 0"):
        TrainingSettings(early_stopping=0)
