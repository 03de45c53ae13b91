"""The smoothed classifier's rows, and those of the table."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.core.identity import identity
from withstand.evaluation.meters import RandomizedSmoothing
from withstand.evaluation.predictor import Predictor, random_predictor
from withstand.reporting.table import select
from withstand.results import measurements as measures
from withstand.results.measurements import measured, table_of
from withstand.results.results import Smoothing
from withstand.results.shares import share
from withstand.types import Batch

if TYPE_CHECKING:
    from tests.evaluation.conftest import Gather

SMOOTHED_PREDICTION, SMOOTHED_RADIUS = "smoothed-prediction", "smoothed-radius-l2"
FEW = RandomizedSmoothing(noise_std=0.5, num_selection=20, num_estimation=100, failure_probability=0.01)


class Bright(nn.Module):
    """Answers class 1 for images whose mean is above a half."""

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


def test_smoothing_rows_hold_radii_of_correct_answers_alone() -> None:
    batch = grey([1.0, 0.0, 1.0, 0.5], [1, 0, 0, 1])
    result = FEW.score(Predictor.of(Bright()), batch, batch.labels, seed=0)
    assert not result.counts
    assert result.columns[SMOOTHED_PREDICTION].tolist() == [1, 0, 1, -1]
    first, second, *others = result.columns[SMOOTHED_RADIUS].tolist()
    assert min(first, second) > 0.5
    assert others == [0.0, 0.0]
    again, other = (
        FEW.score(Predictor.of(Bright()), grey([0.6] * 9, [1] * 9), batch.labels, seed=seed)
        for seed in (0, 1)
    )
    assert again.columns[SMOOTHED_RADIUS].tolist() != other.columns[SMOOTHED_RADIUS].tolist()


def test_smoothing_summary_is_as_computed_by_hand(gather: Gather) -> None:
    meter = RandomizedSmoothing(noise_std=0.5, epsilons=[0.3, 0.0, 0.2])
    rows = pd.DataFrame(
        {
            "label": [0, 1, 2, 0],
            SMOOTHED_PREDICTION: [0, 1, 1, -1],
            SMOOTHED_RADIUS: [0.2, 0.5, 0.0, 0.0],
        }
    )
    table, parts = meter.summary(gather(rows))
    assert parts == {"smoothing": Smoothing(meter.describe(), 0.5, 0.001, 100, 1000)}
    *shares, mean, median, largest = table
    assert shares == [
        measured(measures.SMOOTHED, share([1, 1, 0, 0]), by="smoothed"),
        measured(measures.ABSTENTION, share([0, 0, 0, 1]), by="smoothed"),
        # Nothing is guaranteed for changes as long as the radius itself.
        *(
            measured(measures.SMOOTHED_CERTIFIED, share(proven), by="smoothed", norm="2", level=epsilon)
            for epsilon, proven in ((0.0, [1, 1, 0, 0]), (0.2, [0, 1, 0, 0]), (0.3, [0, 1, 0, 0]))
        ),
    ]
    assert [row.measure for row in (mean, median, largest)] == [
        measures.MEAN_SMOOTHED_RADIUS,
        measures.MEDIAN_SMOOTHED_RADIUS,
        measures.LARGEST_SMOOTHED_RADIUS,
    ]
    assert [row.value for row in (mean, median, largest)] == pytest.approx([0.175, 0.1, 0.5])


@pytest.mark.parametrize(
    ("change", "is_alike"),
    [({"epsilons": [0.1]}, True), ({"batch_rows": 7}, True), ({"num_selection": 5}, False)],
)
def test_smoothing_draws_depend_neither_on_budgets_nor_on_passes(
    change: dict[str, Any], is_alike: bool
) -> None:
    assert (identity(replace(FEW, **change).depends_on) == identity(FEW.depends_on)) is is_alike


def test_smoothing_curve_decreases_from_the_accuracy(gather: Gather) -> None:
    batch = grey(list(np.linspace(0.0, 1.0, 40)), [0] * 20 + [1] * 20)
    result = FEW.score(Predictor.of(Bright()), batch, batch.labels, seed=0)
    summary = FEW.summary(gather(pd.DataFrame({"label": batch.labels.numpy(), **result.columns})))
    table = table_of(summary.measurements)
    shares = list(select(table, measures.SMOOTHED_CERTIFIED).value)
    assert len(shares) == 10
    assert shares[0] == select(table, measures.SMOOTHED).value.item()
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1] > 0
    assert select(table, measures.LARGEST_SMOOTHED_RADIUS).value.item() == FEW.largest_radius


def test_smoothing_asks_a_random_model_anew_for_each_copy() -> None:
    torch.manual_seed(0)
    predictor = random_predictor(OneDraw(), num_samples=1, num_repeats=3, attack_samples=1)
    batch = grey([0.2, 0.8], [0, 0])
    result = FEW.score(predictor, batch, batch.labels, seed=0)
    # Either answer comes half the time, so nothing can be certified; of one draw for all, anything could.
    assert result.columns[SMOOTHED_PREDICTION].tolist() == [-1, -1]
