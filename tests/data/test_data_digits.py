from __future__ import annotations

from pathlib import Path

import pytest
import torch

from withstand.core.dataset_info import KNOWN_DATASETS
from withstand.data.load import read_digits
from withstand.data.split import Parts, channel_statistics


@pytest.fixture(scope="module")
def digits() -> Parts:
    return read_digits(KNOWN_DATASETS["digits"], Path("unused"))


def test_digits_levels_are_scaled_to_the_full_range(digits: Parts) -> None:
    levels = set(digits.train.images.flatten().tolist())
    assert sorted(levels) == [round(level * 255 / 16) for level in range(17)]


def test_digits_test_data_are_always_the_same(digits: Parts) -> None:
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert digits.test.labels[:12].tolist() == [3, 5, 7, 8, 9, 0, 5, 1, 2, 7, 0, 9]
    assert (digits.test.labels.bincount() >= 30).all()


def test_digits_parts_have_no_digit_in_common(digits: Parts) -> None:
    train = {bytes(image.flatten().tolist()) for image in digits.train.images}
    test = {bytes(image.flatten().tolist()) for image in digits.test.images}
    assert not train & test
    assert len(train) + len(test) == 1797


def test_digits_info_has_the_measured_mean_and_std(digits: Parts) -> None:
    mean, std = channel_statistics(digits.train.images)
    assert KNOWN_DATASETS["digits"].mean == pytest.approx(mean, abs=5e-5)
    assert KNOWN_DATASETS["digits"].std == pytest.approx(std, abs=5e-5)


def test_digits_look_like_themselves(digits: Parts) -> None:
    # A zero has a hole in its middle, a one has none.
    zeros = digits.train.images[digits.train.labels == 0].float().mean(0)[0]
    ones = digits.train.images[digits.train.labels == 1].float().mean(0)[0]
    assert torch.all(zeros[3:5, 3:5] < 60)
    assert torch.all(ones[3:5, 3:5] > 150)
