"""The average of weights over the steps of training: what it is, and that it is what training leaves."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.training.collapses_once import CollapsesOnce
from tests.training.stop_after import StopAfter
from withstand.constraints import SpectralBall, orthogonal_
from withstand.core.numerics import seed_of
from withstand.core.schedules import Linear
from withstand.data import Dataset, batches, epoch_order
from withstand.models import load_weights
from withstand.objectives import CrossEntropy
from withstand.operators import weights as layer_weights
from withstand.training import Rollback, TrainingSettings, WeightAverage, fit
from withstand.training.weight_average import Average
from withstand.training.whole_weights import Weights
from withstand.types import CheckpointError

SETTINGS = TrainingSettings(
    epochs=3,
    batch_size=20,  # five steps an epoch
    optimizer=partial(torch.optim.SGD, lr=0.2, momentum=0.9),
    average=WeightAverage(0.8),
    accelerator="cpu",
)


def of(model: nn.Module, how: WeightAverage) -> Average:
    return Average(how, model, Weights(model))


def shares(decay: float, steps: int) -> list[float]:
    """What each of the weights after so many steps counts in their average: the textbook's sum, unrolled."""
    kept = [min(decay, (1 + step) / (10 + step)) for step in range(1, steps)]
    return [(1 - kept[step - 1] if step else 1.0) * math.prod(kept[step:]) for step in range(steps)]


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_average_is_the_weighted_sum_of_the_weights_after_each_step(decay: float) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    average, seen = of(model, WeightAverage(decay, begin=1)), []
    generator = torch.Generator().manual_seed(0)
    for step in range(30):
        for value in model.state_dict().values():
            is_count = value.dtype == torch.int64  # of batches, which is not averaged
            value.copy_(torch.tensor(step) if is_count else torch.rand(value.shape, generator=generator))
        average.update(step / 10)  # the average begins at step 10
        seen.append(copy.deepcopy(model.state_dict()))
    counts = shares(decay, 20)
    assert sum(counts) == pytest.approx(1)
    with average.in_model():
        for name, value in model.state_dict().items():
            past = [state[name] for state in seen[10:]]
            expected = sum(count * one for count, one in zip(counts, past, strict=True))
            torch.testing.assert_close(value, past[-1] if value.dtype == torch.int64 else expected)
    assert all(torch.equal(value, seen[-1][name]) for name, value in model.state_dict().items())


def test_average_of_equal_weights_are_these_and_there_is_none_before_the_first() -> None:
    model = nn.Linear(3, 2)
    average, before = of(model, WeightAverage(begin=2.0)), copy.deepcopy(model.state_dict())
    for progress in (0.0, 1.9, 2.0, 2.1, 2.2):
        average.update(progress)
        assert average.is_begun == (progress >= 2)
        with average.in_model():
            assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_average_behind_an_orthogonal_weight_gives_an_orthogonal_weight() -> None:
    model = nn.Linear(4, 3)
    orthogonal_(model)
    average = of(model, WeightAverage(0.9))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
        average.update(0.0)
    raw = model.weight.detach().clone()
    with average.in_model():
        weight = model.weight
        assert not torch.allclose(weight, raw)
        torch.testing.assert_close(weight @ weight.T, torch.eye(3))


def test_average_is_what_is_scored_saved_and_left(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    by_hand = copy.deepcopy(tiny_model)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.2, momentum=0.9)
    mean, step, accuracies = copy.deepcopy(tiny_model).eval(), 0, []
    images, labels = next(batches(tiny_dataset.validation, 100))
    for epoch in range(3):
        torch.manual_seed(seed_of(7, epoch))
        order = epoch_order(len(tiny_dataset.train), seed=7, epoch=epoch)
        for batch in batches(tiny_dataset.train, 20, order=order):
            optimizer.zero_grad()
            F.cross_entropy(by_hand(batch.images), batch.labels).backward()
            optimizer.step()
            kept = min(0.8, (1 + step) / (10 + step)) if step else 0.0
            for name, value in mean.state_dict().items():
                now = by_hand.state_dict()[name]
                value.copy_(kept * value + (1 - kept) * now if value.is_floating_point() else now)
            step += 1
        accuracies.append(float((mean(images).argmax(1) == labels).double().mean()))
    ours = copy.deepcopy(tiny_model)
    result = fit(ours, tiny_dataset, settings=SETTINGS, out=tmp_path, seed=7)
    assert [row["validation_accuracy"] for row in result.rows] == pytest.approx(accuracies)
    saved = copy.deepcopy(tiny_model)
    load_weights(saved, tmp_path / "last.safetensors")
    for name, value in mean.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
        assert torch.equal(saved.state_dict()[name], ours.state_dict()[name])
    best = copy.deepcopy(tiny_model).eval()
    load_weights(best, tmp_path / "model.safetensors")
    accuracy = float((best(images).argmax(1) == labels).double().mean())
    assert accuracy == pytest.approx(max(accuracies)) == pytest.approx(result.best_score)


@pytest.mark.parametrize("steps", [(3,), (10, 14)])
def test_fit_resumed_with_an_average_ends_with_the_same_weights(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path, steps: tuple[int, ...]
) -> None:
    ball = SpectralBall(Linear(2.0, 0.5, epochs=2), every=3, subspace=2)
    settings = replace(SETTINGS, constraints=[ball], average=WeightAverage(0.9, begin=0.5))
    whole, resumed = copy.deepcopy(tiny_model), copy.deepcopy(tiny_model)
    fit(whole, tiny_dataset, settings=settings, out=tmp_path / "whole")
    often = replace(settings, checkpoint_seconds=0.0)
    for step in steps:
        model = copy.deepcopy(tiny_model)
        with pytest.raises(KeyboardInterrupt):
            fit(model, tiny_dataset, settings=often, out=tmp_path / "cut", observers=[StopAfter(step)])
    fit(resumed, tiny_dataset, settings=settings, out=tmp_path / "cut")
    assert all(map(torch.equal, whole.state_dict().values(), resumed.state_dict().values()))
    log, cut = (pd.read_csv(tmp_path / name / "train.csv") for name in ("whole", "cut"))
    pd.testing.assert_frame_equal(log.drop(columns="seconds"), cut.drop(columns="seconds"))
    # An average of weights of a larger ball is put into the smaller one that they are in now.
    assert all(torch.linalg.matrix_norm(one.matrix, 2) < 0.5001 for one in layer_weights(resumed))
    fit(
        resumed, tiny_dataset, settings=replace(settings, epochs=4), out=tmp_path / "cut"
    )  # of the same object
    fit(tiny_model, tiny_dataset, settings=replace(settings, epochs=4), out=tmp_path / "longer")
    assert all(map(torch.equal, tiny_model.state_dict().values(), resumed.state_dict().values()))


def test_average_goes_back_with_the_weights(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, epochs=2, rollback=Rollback())
    back, straight = copy.deepcopy(tiny_model), copy.deepcopy(tiny_model)
    rows = fit(back, tiny_dataset, CollapsesOnce(epoch=1, until=1), settings, out=tmp_path / "back").rows
    assert [row["epoch"] for row in rows] == [1, 2, 2, 3]
    fit(straight, tiny_dataset, CrossEntropy(), replace(settings, epochs=3), out=tmp_path / "straight")
    assert all(map(torch.equal, back.state_dict().values(), straight.state_dict().values()))


def test_fit_takes_another_average_for_another_run(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, epochs=1)
    fit(copy.deepcopy(tiny_model), tiny_dataset, settings=settings, out=tmp_path)
    for average in (None, WeightAverage(0.9), WeightAverage(0.8, begin=0.5)):
        other = replace(settings, average=average)
        with pytest.raises(CheckpointError, match=r"another run \(average of weights: "):
            fit(copy.deepcopy(tiny_model), tiny_dataset, settings=other, out=tmp_path)


def test_fit_says_that_an_average_would_begin_after_the_training(
    tiny_model: nn.Module, tiny_dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    late = replace(SETTINGS, epochs=1, average=WeightAverage(begin=1.0))
    fit(tiny_model, tiny_dataset, settings=late)
    assert "No weights will be averaged: the average begins after 1 epochs" in caplog.text


@pytest.mark.parametrize("arguments", [{"decay": 1.0}, {"decay": 0.0}, {"begin": -1}])
def test_average_refuses_values_out_of_range(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"Expected (decay between 0 and 1|begin of at least 0)"):
        WeightAverage(**arguments)
