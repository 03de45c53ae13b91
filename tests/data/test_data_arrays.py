from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from withstand.data import as_split, from_arrays, to_unit_range
from withstand.types import DataError

LABELS = torch.tensor([0, 2])


def images(low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    return torch.linspace(low, high, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)


@given(st.sampled_from([torch.float16, torch.float32, torch.float64]))
def test_as_split_recovers_every_level_from_floats(dtype: torch.dtype) -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    floats = to_unit_range(levels).to(dtype)
    assert torch.equal(as_split(floats, torch.zeros(4, dtype=torch.int64)).images, levels)


def test_as_split_takes_uint8_images_as_they_are() -> None:
    levels = torch.arange(96, dtype=torch.uint8).reshape(2, 3, 4, 4)
    assert as_split(levels, LABELS).images is levels


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
