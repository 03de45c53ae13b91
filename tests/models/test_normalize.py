from __future__ import annotations

import math

import pytest
import torch

from withstand.models import Normalize
from withstand.types import ModelError


def test_normalize_has_a_mean_and_a_deviation_for_each_channel() -> None:
    images = torch.rand(2, 3, 4, 5)
    normalised = Normalize([0.1, 0.2, 0.3], [0.5, 1.0, 2.0])(images)
    for channel, (mean, std) in enumerate([(0.1, 0.5), (0.2, 1.0), (0.3, 2.0)]):
        torch.testing.assert_close(normalised[:, channel], (images[:, channel] - mean) / std)


@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (4, 1), (4, 30), (4, 5, 6)])
def test_normalize_of_one_channel_takes_any_shape(shape: tuple[int, ...]) -> None:
    images = torch.rand(shape)
    torch.testing.assert_close(Normalize([0.25], [0.5])(images), (images - 0.25) / 0.5)


def test_normalize_statistics_move_with_the_model_and_are_saved_with_it() -> None:
    layer = Normalize([0.25], [0.5]).to(torch.float64)
    assert layer(torch.rand(1, 1, 2, 2, dtype=torch.float64)).dtype is torch.float64
    other = Normalize([0.0], [1.0])
    other.load_state_dict(layer.state_dict())
    assert (other.mean.item(), other.std.item()) == (0.25, 0.5)
    assert list(other.parameters()) == []


def test_normalize_shows_its_statistics() -> None:
    assert repr(Normalize([0.1307], [0.3081])) == "Normalize(mean=[0.1307], std=[0.3081])"
    assert repr(Normalize([0.1307], [0.3081]).to("meta")) == "Normalize(channels=1)"


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([], [], "at least one"),
        ([0.1, 0.2], [0.3], "as many means as deviations"),
        ([0.1], [0.0], r"positive finite deviations, but got mean \[0.1\] and std \[0.0\]"),
        ([0.1], [-1.0], "positive finite"),
        ([0.1], [math.nan], "positive finite"),
        ([0.1], [math.inf], "positive finite"),
        ([math.nan], [0.1], "finite means"),
    ],
)
def test_normalize_refuses_statistics_that_make_no_sense(
    mean: list[float], std: list[float], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        Normalize(mean, std)
