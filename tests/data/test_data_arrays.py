from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from withstand.data import Dataset, as_split, batches, from_arrays, to_unit_range
from withstand.types import DataError

LABELS = torch.tensor([0, 2])


def images(low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    return torch.linspace(low, high, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)


@given(st.sampled_from([torch.float32, torch.float64]))
def test_as_split_recovers_every_level_from_floats(dtype: torch.dtype) -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    floats = to_unit_range(levels).to(dtype)
    assert torch.equal(as_split(floats, torch.zeros(4, dtype=torch.int64)).images, levels)


def test_as_split_takes_uint8_images_as_they_are() -> None:
    levels = torch.arange(96, dtype=torch.uint8).reshape(2, 3, 4, 4)
    assert torch.equal(as_split(levels, LABELS).images, levels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [0.50390625, 0.75, 128 / 255])
def test_as_split_keeps_what_half_precision_holds(dtype: torch.dtype, value: float) -> None:
    given = torch.full((2, 1, 2, 2), value, dtype=dtype)
    (batch,) = batches(as_split(given, LABELS), 2)
    assert torch.equal(batch.images, given.float())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float16, torch.float32, torch.float64])
def test_data_are_not_changed_with_the_tensors_they_are_made_of(dtype: torch.dtype) -> None:
    for values in (images(), torch.ones(2, 3, 4, 4), torch.ones(1, 3, 1, 1).expand(2, 3, 4, 4)):
        given, labels = values.to(dtype).clone(), LABELS.clone()
        dataset = from_arrays((given, labels), (given, labels), validation_size=0)
        before, shown = dataset.fingerprint, [split.images.clone() for split in (dataset.train, dataset.test)]
        given.zero_()
        labels.zero_()
        for split, pixels in zip((dataset.train, dataset.test), shown, strict=True):
            assert torch.equal(split.images, pixels)
            assert torch.equal(split.labels, LABELS)
        assert Dataset(dataset.info, dataset.train, dataset.validation, dataset.test).fingerprint == before


@pytest.mark.parametrize("shape", [(64, 1, 1), (8, 4, 4), (20, 4, 4), (3, 2, 2), (1, 1, 64), (13, 8, 8)])
def test_channels_of_square_pictures_and_of_vectors_are_first(
    shape: tuple[int, int, int], caplog: pytest.LogCaptureFixture
) -> None:
    assert as_split(torch.rand(2, *shape), LABELS).images.shape == (2, *shape)
    assert caplog.text == ""


@pytest.mark.parametrize("shape", [(16, 16, 13), (16, 16, 5), (11, 11, 200), (3, 5, 3)])
def test_channels_that_may_be_last_are_told(
    shape: tuple[int, int, int], caplog: pytest.LogCaptureFixture
) -> None:
    as_split(torch.rand(2, *shape), LABELS)
    assert "taken to have {} channels of {} x {} pixels".format(*shape) in caplog.text


@pytest.mark.parametrize("largest", [10**5, 10**9, 2**62])
def test_labels_that_are_ids_are_no_classes(largest: int) -> None:
    pair = (images(), torch.tensor([0, largest]))
    with pytest.raises(DataError, match=f"largest label is {largest:,}.*return_inverse"):
        from_arrays(pair, pair, validation_size=0)


def test_masked_arrays_are_refused() -> None:
    hidden = np.ma.masked_array(images().numpy(), mask=images().numpy() > 0.5)
    labels = np.ma.masked_array([0, 2], mask=[True, False])
    for what, pair in (
        ("Images", (hidden, LABELS)),
        ("Images", (list(hidden), LABELS)),
        ("Labels", (images(), labels)),
    ):
        with pytest.raises(DataError, match=f"{what} are a masked array"):
            as_split(*pair)


def test_as_split_takes_long_doubles_and_refuses_sparse_tensors() -> None:
    known = as_split(images(), LABELS).images
    assert torch.equal(as_split(images().numpy().astype(np.longdouble), LABELS).images, known)
    with pytest.raises(DataError, match="Images must be a dense tensor"):
        as_split(images().to_sparse(), LABELS)


@pytest.mark.parametrize("seed", [1.0, "1", np.int64(1), torch.tensor(1)])
def test_from_arrays_takes_a_seed_as_a_whole_number(seed: Any) -> None:
    pair = (torch.rand(60, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2)
    assert from_arrays(pair, pair, seed=seed).fingerprint == from_arrays(pair, pair, seed=1).fingerprint


def test_as_split_takes_arrays_even_if_read_only() -> None:
    array = images().numpy()
    labels = np.array([0, 2], np.int32)
    array.flags.writeable = False
    split = as_split(array, labels)
    assert torch.equal(split.images, as_split(images(), LABELS).images)
    assert split.labels.dtype == torch.int64


@pytest.mark.parametrize(("low", "high"), [(-1.5, 2.0), (0.0, 255.0), (-0.001, 1.0), (0.0, 1.001)])
def test_as_split_refuses_images_outside_the_unit_range(low: float, high: float) -> None:
    with pytest.raises(DataError, match=rf"range from {low:.4g} to {high:.4g}.*by 255.*do not normalise"):
        as_split(images(low, high), LABELS)


def test_as_split_refuses_nan() -> None:
    broken = images()
    broken[1, 2, 3, 3] = torch.nan
    with pytest.raises(DataError, match=r"Images must lie in \[0, 1\], but these range from nan"):
        as_split(broken, LABELS)


def test_as_split_notices_channels_last() -> None:
    with pytest.raises(
        DataError, match=r"\(2, 4, 4, 3\) seem to have their channels last.*permute\(0, 3, 1, 2\)"
    ):
        as_split(images().permute(0, 2, 3, 1), LABELS)


@pytest.mark.parametrize("labels", [torch.tensor([0.0, 1.0]), torch.tensor([True, False])])
def test_as_split_needs_integer_labels(labels: torch.Tensor) -> None:
    with pytest.raises(DataError, match=f"Labels must be integers, but have type {labels.dtype}"):
        as_split(images(), labels)


def test_as_split_needs_uint8_for_integer_images() -> None:
    with pytest.raises(DataError, match=r"Images must be a torch.uint8 tensor.* torch.int64"):
        as_split((images() * 255).long(), LABELS)


def test_as_split_takes_no_images_too() -> None:
    assert len(as_split(torch.zeros(0, 3, 4, 4), torch.zeros(0, dtype=torch.int64))) == 0


def test_from_arrays_makes_a_data_set_of_ones_own() -> None:
    train = (images().repeat(10, 1, 1, 1), LABELS.repeat(10))
    dataset = from_arrays(train, (images(), LABELS), name="mine", seed=4)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (18, 2, 2)
    assert (dataset.info.name, dataset.info.shape) == ("mine", (3, 4, 4))
    assert dataset.info.class_names == ("0", "1", "2")
    assert list(dataset.info.mean) == pytest.approx(images().mean((0, 2, 3)).tolist(), abs=2e-3)


def test_from_arrays_counts_the_classes_of_the_test_data_too() -> None:
    dataset = from_arrays((images(), LABELS), (images(), torch.tensor([0, 6])), validation_size=0)
    assert dataset.info.num_classes == 7


def test_from_arrays_refuses_labels_beyond_the_named_classes() -> None:
    with pytest.raises(DataError, match="has a label 2, but there are 2 classes, so labels go from 0 to 1"):
        from_arrays((images(), LABELS), (images(), LABELS), class_names=["cat", "dog"], validation_size=0)


def test_from_arrays_needs_training_images() -> None:
    nothing = (torch.zeros(0, 3, 4, 4), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(DataError, match="no training images"):
        from_arrays(nothing, (images(), LABELS))


def test_from_arrays_needs_test_images_of_the_same_shape() -> None:
    with pytest.raises(DataError, match=r"test split have shape \(3, 2, 4\)"):
        from_arrays((images(), LABELS), (images()[:, :, ::2], LABELS), validation_size=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_as_split_keeps_floats_that_are_no_levels(dtype: torch.dtype) -> None:
    floats = (torch.arange(96).reshape(2, 3, 4, 4) / 97).to(dtype)
    split = as_split(floats, LABELS)
    assert split.images.dtype == torch.float32
    assert torch.equal(split.images, floats.float())
    (batch,) = batches(split, 2)
    assert torch.equal(batch.images, floats.float())


def test_as_split_keeps_levels_by_multiplication_as_levels() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    assert torch.equal(as_split(levels * (1 / 255), torch.zeros(4, dtype=torch.int64)).images, levels)


def test_one_float_that_is_no_level_keeps_all_as_floats() -> None:
    floats = torch.zeros(5000, 1, 1, 1)
    floats[4999] = 0.5
    split = as_split(floats, torch.zeros(5000, dtype=torch.int64))
    assert float(split.images[4999]) == 0.5


def test_data_of_floats_are_batched_measured_and_told_apart() -> None:
    floats = torch.rand(40, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 2
    dataset, rounded, close = (
        from_arrays((values, labels), (values[:9], labels[:9]), validation_size=0)
        for values in (floats, (floats * 255).round() / 255, (floats + 1e-6).clamp(max=1))
    )
    assert list(dataset.info.mean) == pytest.approx(floats.mean((0, 2, 3)).tolist())
    assert list(dataset.info.std) == pytest.approx(floats.std((0, 2, 3), correction=0).tolist())
    assert len({dataset.fingerprint, rounded.fingerprint, close.fingerprint}) == 3
    (batch,) = batches(dataset.train, 40, augment=lambda images: 1 - images)
    assert torch.equal(batch.images, 1 - floats)


def test_batches_divide_levels_that_an_augmentation_hands_back_as_floats() -> None:
    split = as_split(torch.full((2, 3, 4, 4), 51, dtype=torch.uint8), LABELS)
    (batch,) = batches(split, 2, augment=lambda images: images.float() * 2)
    assert batch.images.flatten().tolist() == pytest.approx([0.4] * 96)


@pytest.mark.parametrize(
    "labels", [[0, 2], (0, 2), np.array([[0], [2]], np.uint16), torch.tensor([[0], [2]], dtype=torch.int8)]
)
def test_as_split_takes_lists_and_labels_in_a_column(labels: Any) -> None:
    known = as_split(images(), LABELS)
    for values in (images().tolist(), list(images()), list(images().numpy()), images().numpy()[:, :, ::1]):
        split = as_split(values, labels)
        assert torch.equal(split.images, known.images)
        assert torch.equal(split.labels, LABELS)


def test_as_split_takes_arrays_of_any_layout() -> None:
    array = images().numpy()
    for values in (array[:, :, ::-1][:, :, ::-1], array.astype(">f8"), np.asfortranarray(array)):
        np.testing.assert_allclose(as_split(values, LABELS).images, array, atol=1e-7)


def test_as_split_takes_truths_as_black_and_white() -> None:
    split = as_split(images() > 0.5, LABELS)
    assert {*split.images.flatten().tolist()} == {0, 255}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "Images must be numbers, but have type object"),
        ("pictures", "Images must be numbers"),
        ([[1, 2], [3]], "Images must be of one shape each"),
        (np.zeros((2, 3, 4, 4), object), "Images must be numbers, but have type object"),
        (np.zeros((2, 3, 4, 4), complex), "Images must be numbers, but have type complex"),
        (np.zeros((2, 3, 4, 4), np.uint16), r"torch.uint16. Divide them by the largest level.* 65535"),
        (np.zeros(2), r"values\[:, None\]"),
        (np.zeros((2, 8, 8)), r"images\[:, None\].*series of 8 channels and 8 steps, name them"),
        (np.zeros((2, 16, 3)), r"channels last.*permute\(0, 2, 1\)"),
        (np.zeros((2, 8, 8, 8, 1)), r"channels last.*permute\(0, 4, 1, 2, 3\)"),
        (np.zeros((2, 8, 8, 4)), "channels last"),
        (np.zeros((2, 8, 8, 1)), "channels last"),
    ],
)
def test_as_split_says_what_to_do_with_other_images(values: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_split(values, LABELS)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array(["cat", "dog"]), r"numpy.unique\(labels, return_inverse=True\)"),
        (["cat", "dog"], r"numpy.unique"),
        (np.array([0, None], object), "Labels must be numbers"),
        (torch.eye(2, dtype=torch.int64), r"one-hot, pass labels.argmax\(1\)"),
        (torch.tensor([0.0, torch.nan]), "Labels must be integers"),
        (torch.zeros(3, dtype=torch.int64), "2 images and 3 labels"),
        (torch.tensor([0, -1]), "numbered from 0"),
    ],
)
def test_as_split_says_what_to_do_with_other_labels(labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_split(images(), labels)


def test_from_arrays_takes_tensor_datasets_and_lists_of_two() -> None:
    known = from_arrays((images(), LABELS), (images(), LABELS), validation_size=0)
    pair = TensorDataset(images(), LABELS)
    other = from_arrays(pair, [images(), LABELS], validation_size=0)  # type: ignore[arg-type]
    assert other.fingerprint == known.fingerprint


@pytest.mark.parametrize("wrong", [images(), (images(),), DataLoader(TensorDataset(LABELS))])
def test_from_arrays_says_how_to_make_a_pair(wrong: Any) -> None:
    with pytest.raises(DataError, match=r"test must be a pair of images and labels.*as_dataset\(source\)"):
        from_arrays((images(), LABELS), wrong)


@pytest.mark.parametrize("least", [1, 3])
def test_from_arrays_refuses_labels_that_begin_above_0(least: int) -> None:
    pair = (images(), LABELS + least)
    with pytest.raises(DataError, match=f"smallest label is {least}.*labels - {least}"):
        from_arrays(pair, pair)
    names = [str(number) for number in range(6)]
    assert from_arrays(pair, pair, class_names=names).info.num_classes == 6


def doubts(caplog: pytest.LogCaptureFixture, train: Any, test: Any) -> str:
    """What is said of data whose labels are without fault."""
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        labels = [torch.arange(len(part)) % 2 for part in (train, test)]
        from_arrays((train, labels[0]), (test, labels[1]), validation_size=0)
    return caplog.text


def test_from_arrays_says_nothing_of_data_without_doubts(caplog: pytest.LogCaptureFixture) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = torch.randint(0, 256, (30, 1, 4, 4), dtype=torch.uint8, generator=generator)
    assert doubts(caplog, draw[:20], draw[20:]) == ""
    assert doubts(caplog, draw[:20].float() / 256, draw[20:].float() / 256) == ""


def test_from_arrays_says_that_images_are_nearly_black(caplog: pytest.LogCaptureFixture) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = torch.randint(0, 2, (30, 1, 8, 8), dtype=torch.uint8, generator=generator)
    for train, test, part in (
        (draw, draw * 255, "training images is 0.00392"),
        (draw * 255, draw * 16, "test images is 0.0627"),
        (draw / 255.0, draw / 1.0, "training images is 0.00392"),
        (draw / 1.0, draw / 100.0, "test images is 0.01"),
    ):
        assert f"the brightest pixel of all {part} of white" in doubts(caplog, train, test)


def test_from_arrays_says_that_test_images_are_training_images(caplog: pytest.LogCaptureFixture) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = torch.rand(40, 1, 4, 4, generator=generator)
    assert "4 of 14 test images are training or validation images" in doubts(caplog, draw[:30], draw[26:])


def test_copies_are_found_whatever_the_splits_are_stored_as(caplog: pytest.LogCaptureFixture) -> None:
    levels = torch.randint(
        0, 256, (12, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    floats = levels / 255
    odd = torch.cat([floats[:5], torch.full((1, 1, 4, 4), 0.1234)])
    for train, test, number in ((levels, odd, 5), (odd, levels, 5), (-0.0 * odd, 0.0 * odd[:3] + 0.0, 3)):
        text = doubts(caplog, train, test)
        assert f"{number} of {len(test)} test images are training or validation images" in text


def test_from_arrays_says_which_classes_have_no_images(caplog: pytest.LogCaptureFixture) -> None:
    draw = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with caplog.at_level(logging.WARNING):
        from_arrays((draw[:2], LABELS), (draw[2:], torch.tensor([0, 1])), validation_size=0)
    assert "1 of 3 classes have no training images (1)" in caplog.text
    assert "1 of 3 classes have no test images (2)" in caplog.text
