"""The smoothed classifier's rows and its entry of the metrics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.evaluation.judge import Judge, random_judge
from withstand.evaluation.smoothing import SMOOTHED_PREDICTION, SMOOTHED_RADIUS, SmoothingMeter
from withstand.evaluation.summary import share
from withstand.reporting.conform import misfit
from withstand.reporting.measures_schema import Smoothing as Entry
from withstand.smoothing import Smoothing
from withstand.types import Batch

FEW = Smoothing(noise_std=0.5, num_selection=20, num_estimation=100, failure_probability=0.01)


class Bright(nn.Module):
    """Says 1 of images whose mean is above a half."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        side = images.mean(dim=(1, 2, 3)) - 0.5
        return torch.stack([-side, side, -10 + 0 * side], dim=1)


class OneDraw(nn.Module):
    """Draws one answer a pass, for all images of it."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        return 9 * torch.eye(3)[torch.randint(0, 2, ())].expand(len(images), 3)


def grey(levels: list[float], labels: list[int]) -> Batch:
    return Batch(
        torch.tensor(levels)[:, None, None, None].expand(-1, 1, 4, 4).contiguous(), torch.tensor(labels)
    )


def test_rows_hold_right_answers_alone() -> None:
    batch = grey([1.0, 0.0, 1.0, 0.5], [1, 0, 0, 1])
    found = SmoothingMeter(FEW).score(Judge.of(Bright()), batch, batch.labels, seed=0)
    assert not found.counts
    assert found.columns[SMOOTHED_PREDICTION].tolist() == [1, 0, 1, -1]
    first, second, *others = found.columns[SMOOTHED_RADIUS].tolist()
    assert min(first, second) > 0.5
    assert others == [0.0, 0.0]
    again, other = (
        SmoothingMeter(FEW).score(Judge.of(Bright()), grey([0.6] * 9, [1] * 9), batch.labels, seed=seed)
        for seed in (0, 1)
    )
    assert again.columns[SMOOTHED_RADIUS].tolist() != other.columns[SMOOTHED_RADIUS].tolist()


def test_summary_by_hand() -> None:
    settings = Smoothing(noise_std=0.5, epsilons=[0.3, 0.0, 0.2])
    meter = SmoothingMeter(settings)
    rows = pd.DataFrame(
        {
            "label": [0, 1, 2, 0],
            SMOOTHED_PREDICTION: [0, 1, 1, -1],
            SMOOTHED_RADIUS: [0.2, 0.5, 0.0, 0.0],
        }
    )
    entry = meter.summary(rows, {})
    assert misfit(entry, Entry, "") is None
    assert meter.entry == "smoothing"
    # What is drawn depends on neither of these.
    others = [
        SmoothingMeter(replace(settings, epsilons=[0.1])),
        SmoothingMeter(replace(settings, batch_rows=7)),
    ]
    assert all(other.settings == meter.settings for other in others)
    assert SmoothingMeter(replace(settings, num_selection=5)).settings != meter.settings
    assert entry["description"] == settings.describe()
    assert (entry["noise_std"], entry["failure_probability"]) == (0.5, 0.001)
    assert (entry["num_selection"], entry["num_estimation"], entry["num_examples"]) == (100, 1000, 4)
    assert entry["accuracy"] == share([1, 1, 0, 0])
    assert entry["abstained"] == share([0, 0, 0, 1])
    # Nothing is said of changes as long as the radius itself.
    assert entry["curve"] == [
        {"epsilon": 0.0, **share([1, 1, 0, 0])},
        {"epsilon": 0.2, **share([0, 1, 0, 0])},
        {"epsilon": 0.3, **share([0, 1, 0, 0])},
    ]
    assert entry["radius"] == {"mean": pytest.approx(0.175), "median": pytest.approx(0.1), "largest": 0.5}


def test_the_curve_falls_from_the_accuracy_and_stays_above_nothing() -> None:
    batch = grey(list(np.linspace(0.0, 1.0, 40)), [0] * 20 + [1] * 20)
    meter = SmoothingMeter(FEW)
    found = meter.score(Judge.of(Bright()), batch, batch.labels, seed=0)
    entry = meter.summary(pd.DataFrame({"label": batch.labels.numpy(), **found.columns}), {})
    shares = [point["accuracy"] for point in entry["curve"]]
    assert len(shares) == 10
    assert shares[0] == entry["accuracy"]["accuracy"]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1] > 0
    assert entry["radius"]["largest"] == FEW.largest_radius


def test_a_model_that_draws_is_asked_anew_for_each_copy() -> None:
    torch.manual_seed(0)
    judge = random_judge(OneDraw(), num_samples=1, num_repeats=3, attack_samples=1)
    batch = grey([0.2, 0.8], [0, 0])
    found = SmoothingMeter(FEW).score(judge, batch, batch.labels, seed=0)
    # Either answer comes half the time, so nothing can be said; of one draw for all, anything could.
    assert found.columns[SMOOTHED_PREDICTION].tolist() == [-1, -1]
