"""Accuracy on corrupted images: counts, draws and the rows of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.corruptions import CORRUPTIONS
from withstand.evaluation.meter import PartResult
from withstand.evaluation.meters import Corruptions
from withstand.evaluation.predictor import Predictor, random_predictor
from withstand.results.measurements import CORRUPTED, example_column, measured
from withstand.results.shares import share_of
from withstand.types import Batch

if TYPE_CHECKING:
    from tests.evaluation.conftest import Gather

COLUMN = "corruption-accuracy"


class Bright(nn.Module):
    """Answers class 1 for images whose mean is above a half; keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    @override
    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        side = images.mean(dim=(1, 2, 3)) - 0.5
        return torch.stack([-side, side], dim=1)


def grey(*levels: float) -> Batch:
    """Flat images, bright ones of class 1."""
    images = torch.tensor(levels)[:, None, None, None].expand(-1, 1, 8, 8)
    return Batch(images, (torch.tensor(levels) > 0.5).long())


def score(meter: Corruptions, batch: Batch, seed: int = 0, model: nn.Module | None = None) -> PartResult:
    predictor = Predictor.of(model or Bright())
    with torch.no_grad():
        prediction = predictor.model(batch.images).argmax(dim=1)
    return meter.score(predictor, batch, prediction, seed=seed)


def test_corruptions_counts_are_as_counted_by_hand() -> None:
    batch = grey(0.05, 0.15, 0.25, 0.35, 0.45, 0.55)
    result = score(Corruptions(["brightness", "contrast"], [1, 3]), batch)
    # 0.1 turns 0.45, 0.3 all from 0.25 on; flat images have no contrast to lose.
    (counts,) = result.counts.values()
    assert counts.dtype == np.int64
    assert counts.tolist() == [[5, 3], [6, 6]]
    assert result.columns[COLUMN].tolist() == [1.0, 1.0, 0.75, 0.75, 0.5, 1.0]


def test_corruptions_summary_adds_batches_up(gather: Gather) -> None:
    meter = Corruptions(["jpeg", "brightness"], [2, 5])
    parts = [score(meter, batch) for batch in (grey(0.05, 0.35), grey(0.45, 0.55, 0.95))]
    counts = {name: parts[0].counts[name] + parts[1].counts[name] for name in parts[0].counts}
    column = np.concatenate([part.columns[COLUMN] for part in parts])
    rows, summaries = meter.summary(gather(pd.DataFrame({COLUMN: column}), counts=counts))
    jpeg, brightness = summaries["corruptions"].kinds
    assert summaries["corruptions"].description == meter.describe()
    assert (jpeg.name, jpeg.title, jpeg.parameter) == ("jpeg", "JPEG", "quality, of 100")
    assert (brightness.severities, brightness.values) == ([2, 5], [0.2, 0.5])
    assert [(row.by, row.level) for row in rows] == [
        ("jpeg", 2), ("jpeg", 5), ("brightness", 2), ("brightness", 5)
    ]  # fmt: skip
    assert list(rows[2:]) == [
        measured(CORRUPTED, share_of(3, 5), by="brightness", level=2),
        measured(CORRUPTED, share_of(2, 5), by="brightness", level=5),
    ]
    assert np.mean([row.value for row in rows]) == pytest.approx(column.mean())
    assert example_column(CORRUPTED) == COLUMN


def test_corruptions_show_the_model_each_image_once_without_gradient() -> None:
    bright = Bright()
    score(Corruptions(), grey(0.2, 0.8, 0.6), model=nn.Sequential(nn.Conv2d(1, 1, 1), bright))
    assert len(bright.seen) == 1 + 8 * 5
    assert not any(images.requires_grad for images in bright.seen)


def test_corruptions_draw_for_each_kind_and_severity_alone() -> None:
    batch = Batch(torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 2)
    alone, beside, other, low = Bright(), Bright(), Bright(), Bright()
    before = torch.random.get_rng_state()
    score(Corruptions(["shot-noise"], [2]), batch, model=alone)
    score(Corruptions(["rotation", "shot-noise"], [3, 2]), batch, model=beside)
    score(Corruptions(["shot-noise"], [2]), batch, seed=1, model=other)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(alone.seen[1], beside.seen[4])
    assert not torch.equal(alone.seen[1], other.seen[1])
    score(Corruptions(["impulse-noise"], [1, 5]), batch, model=low)
    hit = [images != batch.images for images in low.seen[1:]]
    assert (hit[0] & ~hit[1]).any()  # not the same draws with another threshold


def test_corruptions_ask_a_random_model_once_an_image() -> None:
    model = Bright()
    predictor = random_predictor(model, num_samples=1, num_repeats=5, attack_samples=1)
    batch = grey(0.2, 0.8)
    result = Corruptions(["contrast"], [1]).score(predictor, batch, batch.labels, seed=0)
    assert result.columns[COLUMN].tolist() == [1.0, 1.0]
    assert sum(len(images) for images in model.seen) == 2


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"kinds": ["blur"]}, "There is no corruption 'blur'; did you mean 'gaussian-blur'"),
        ({"kinds": []}, "Expected kinds of the corruptions, one at least"),
        ({"kinds": ["jpeg", "jpeg"]}, "and each once"),
        ({"severities": [6]}, "from 1 to 5, but got 6"),
        ({"severities": []}, "Expected severities of the corruptions, one at least"),
        ({"severities": [1, 1]}, "and each once"),
    ],
)
def test_corruptions_refuse_settings_out_of_range(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Corruptions(**wrong)


def test_corruptions_are_all_measured_by_default_and_described() -> None:
    settings = Corruptions()
    assert settings.kinds == list(CORRUPTIONS)
    assert settings.severities == [1, 2, 3, 4, 5]
    assert "Gaussian blur, Brightness" in settings.describe()
    assert "severities 2 of 1 to 5" in Corruptions(["jpeg"], [2]).describe()
