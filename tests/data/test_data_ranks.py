from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from withstand.core.dataset_info import DatasetInfo
from withstand.core.noise import GaussianNoise
from withstand.data import Augment, Deform, as_split, batches, from_arrays, range_of, scale, unscale
from withstand.data.split import channel_statistics
from withstand.types import DataError

SHAPES = {"vectors": (5,), "series": (2, 7), "images": (3, 4, 4), "volumes": (1, 3, 4, 4)}
LABELS = torch.arange(12) % 3


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(12, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kind", "shape"), SHAPES.items())
def test_from_arrays_takes_every_shape(kind: str, shape: tuple[int, ...]) -> None:
    images = values(*shape)
    dataset = from_arrays((images, LABELS), (images[:6], LABELS[:6]), name="mine", validation_size=2)
    assert dataset.info.shape == shape
    (batch,) = batches(dataset.test, 12)
    assert torch.equal(batch.images, images[:6])
    sides = " x ".join(map(str, shape))
    assert repr(dataset.test) == f"Split(6 {kind} of {sides}, float32 on cpu)"
    assert repr(dataset) == (
        f"Dataset('mine', {kind} of {sides}, 3 classes, 10 train, 2 validation, 6 test, float32 on cpu)"
    )


@pytest.mark.parametrize("shape", SHAPES.values())
def test_statistics_are_those_of_each_feature_or_channel(shape: tuple[int, ...]) -> None:
    levels = (values(*shape) * 255).round().to(torch.uint8)
    flat = (levels.double() / 255).transpose(0, 1).flatten(1)
    for stored in (levels, levels.float() / 255):
        mean, std = channel_statistics(stored)
        assert list(mean) == pytest.approx(flat.mean(1).tolist())
        assert list(std) == pytest.approx(flat.std(1, correction=0).tolist())


@pytest.mark.parametrize("shape", SHAPES.values())
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, lambda array: array.tolist()])
def test_data_with_a_range_are_scaled_and_brought_back(shape: tuple[int, ...], kind: Any) -> None:
    low = np.arange(shape[0], dtype=np.float64) - 1
    ends = low.reshape(-1, *[1] * (len(shape) - 1))
    given = ends + 2.5 * values(*shape).double().numpy()
    dataset = from_arrays(
        (kind(given), LABELS), (kind(given), LABELS), input_range=(low, low + 2.5), validation_size=0
    )
    assert dataset.info.input_range == (tuple(low), tuple(low + 2.5))
    torch.testing.assert_close(dataset.test.images, values(*shape))
    back = unscale(dataset.test.images, dataset.info.input_range)
    np.testing.assert_allclose(back.numpy(), given, atol=1e-6)


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6, width=32), st.floats(0, 1e6, width=32)), min_size=1, max_size=4),
    st.integers(0, 2**16),
)
@settings(max_examples=50, deadline=None)
def test_scaled_values_fill_no_more_than_0_to_1_and_come_back(
    ranges: list[tuple[float, float]], seed: int
) -> None:
    low = torch.tensor([least for least, _ in ranges], dtype=torch.float64)
    length = torch.tensor([size for _, size in ranges], dtype=torch.float64)
    given = low + length * torch.rand(6, len(ranges), generator=torch.Generator().manual_seed(seed))
    ends = range_of(given)
    shares = scale(given, ends)
    assert ((shares >= 0) & (shares <= 1)).all()
    largest = float(given.abs().max()) + float(length.max())
    torch.testing.assert_close(unscale(shares, ends), given, rtol=0, atol=1e-6 * largest)


def test_constant_features_are_0_and_ranges_may_be_numbers() -> None:
    given = np.array([[1.0, 7.0], [3.0, 7.0], [2.0, 7.0]])
    dataset = from_arrays(
        (given, [0, 1, 2]), (given, [0, 1, 2]), input_range=range_of(given), validation_size=0
    )
    assert dataset.train.images.tolist() == [[0, 0], [1, 0], [0.5, 0]]
    whole = as_split(np.array([[0, 4], [2, 1]], np.int16), [0, 1], input_range=(0, 4))
    assert whole.images.tolist() == [[0, 1], [0.5, 0.25]]
    single = np.array([[0.1], [0.7]], np.float32)  # both a little beyond their ends in double precision
    assert as_split(single, [0, 1], input_range=(0.1, 0.7)).images.flatten().tolist() == pytest.approx(
        [0, 255]
    )


@pytest.mark.parametrize("wrong", [5.5, -0.1, np.nan])
def test_a_value_outside_its_range_is_named(wrong: float) -> None:
    given = np.ones((3, 2))
    given[2, 1] = wrong
    with pytest.raises(
        DataError, match=rf"value {wrong:g} of height in example 2 .* 0 to 5\. Widen input_range"
    ):
        from_arrays(
            (given, [0, 1, 0]), (given, [0, 1, 0]), input_range=(0, [9, 5]), feature_names=["age", "height"]
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_range": (0,)}, r"must be a pair \(low, high\)"),
        ({"input_range": ("a", "b")}, r"must be a pair \(low, high\)"),
        ({"input_range": (0, [1, 2, 3])}, "each feature, 2 of each, but has 2 and 3"),
        ({"input_range": (2, 1)}, "feature 0 must go from a finite number to one at least as large"),
        ({"input_range": (0, np.inf)}, "feature 0 must go from a finite number"),
        (
            {"feature_names": ["age"], "input_range": (0, 2)},
            "one name a feature, 2 for vectors of 2, but has 1",
        ),
        ({}, r"input_range=\(low, high\)"),
    ],
)
def test_a_range_that_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    pair = (np.full((2, 2), 1.5), [0, 1])
    with pytest.raises(DataError, match=message):
        from_arrays(pair, pair, **options)


def test_range_of_refuses_what_has_none() -> None:
    with pytest.raises(DataError, match="NaN or infinite"):
        range_of(np.array([[1.0, np.nan]]))
    with pytest.raises(DataError, match="these have 2 and 3"):
        range_of(np.zeros((1, 2)), np.zeros((1, 3)))
    with pytest.raises(DataError, match="with values"):
        range_of(np.zeros((0, 2)))


@pytest.mark.parametrize(
    ("shape", "is_told"), [((12, 100), False), ((3, 16), False), ((28, 40), True), ((8, 8, 8), True)]
)
def test_series_that_may_be_grey_images_are_told(
    shape: tuple[int, ...], is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        as_split(torch.rand(2, *shape), LABELS[:2])
    assert ("images[:, None]" in caplog.text) == is_told


def test_named_channels_settle_which_axis_they_are_on(caplog: pytest.LogCaptureFixture) -> None:
    for shape in ((9, 9), (16, 3)):
        names = [f"sensor {number}" for number in range(shape[0])]
        assert as_split(torch.rand(2, *shape), LABELS[:2], feature_names=names).images.shape[1:] == shape
    assert caplog.text == ""


@pytest.mark.parametrize("shape", [shape for kind, shape in SHAPES.items() if kind != "images"])
def test_what_needs_images_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    for needs_images in (Augment(), Deform(), lambda images: Augment().require_fit(images.shape[1:])):
        with pytest.raises(DataError, match=r"images \(channels, height, width\) alone.*Leave"):
            needs_images(values(*shape))


def test_noise_differs_by_feature_and_blurs_series_alone() -> None:
    torch.manual_seed(0)
    drawn = GaussianNoise([0.0, 1.0]).draw(torch.zeros(2000, 2))
    assert drawn.std(0).tolist() == pytest.approx([0, 1], abs=0.1)
    assert GaussianNoise(1.0, blur=1.0).draw(torch.zeros(2, 1, 9)).shape == (2, 1, 9)
    with pytest.raises(DataError, match="Take blur=0"):
        GaussianNoise(1.0, blur=1.0).draw(torch.zeros(2, 9))


def test_the_facts_of_a_data_set_fit_each_other() -> None:
    with pytest.raises(DataError, match="one axis at least"):
        DatasetInfo("none", (), ["a"], [], [])
    with pytest.raises(DataError, match="each channel, 2 of each, but has 1 and 1"):
        DatasetInfo("wrong", (2, 5), ["a"], [0, 0], [1, 1], ((0.0,), (1.0,)))
