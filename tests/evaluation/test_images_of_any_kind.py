"""Images of any number of channels, and of any size: scored, corrupted, and shown on the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from withstand.attacks import PGD
from withstand.core.dataset_info import DatasetInfo
from withstand.corruptions import CORRUPTIONS
from withstand.data import Dataset, Split
from withstand.evaluation import evaluate
from withstand.evaluation.meters import Attacks, Certificate, Corruptions
from withstand.reporting import report
from withstand.reporting.images import Gallery
from withstand.reporting.read import read_run

CHANNELS = [1, 2, 3, 4, 5, 13]
SIZES = [(1, 1), (1, 7), (7, 1), (4, 6)]
EPSILON = 0.001  # smaller than half a level


def noise(channels: int, size: tuple[int, int]) -> Dataset:
    images = torch.randint(0, 256, (14, channels, *size)).to(torch.uint8)
    split = Split(images, torch.arange(14) % 2)
    info = DatasetInfo("noise", (channels, *size), ["a", "b"], [0.5] * channels, [0.3] * channels)
    return Dataset(info, split, split.subset([]), split)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", CHANNELS)
def test_evaluation_of_any_images_has_a_page(channels: int, size: tuple[int, int], tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], 2))
    meters = [Attacks([PGD(num_steps=2)], epsilons=[EPSILON]), Certificate(2, [EPSILON], radius=True)]
    evaluate(net, noise(channels, size), [*meters, Corruptions(severities=[5])], out=tmp_path)
    page = report(tmp_path).read_text(encoding="utf-8")
    assert (f"The images have {channels} channels" in page) is (channels not in (1, 3))
    assert "Sequential on noise" in page
    gallery = read_run(tmp_path).gallery
    assert isinstance(gallery, Gallery)
    largest = np.abs(gallery.change).max()
    assert 0 < largest <= 255 * EPSILON * 1.001


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruptions_keep_shape_and_range_of_any_images(
    kind: str, channels: int, size: tuple[int, int]
) -> None:
    images = torch.rand(3, channels, *size)
    corrupted = CORRUPTIONS[kind](images, 5, torch.Generator().manual_seed(0))
    assert corrupted.shape == images.shape
    assert bool(((corrupted >= 0) & (corrupted <= 1)).all())  # so that NaN fails too
