from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from withstand.core.dataset_info import DatasetInfo
from withstand.data import Dataset, Split
from withstand.types import DataError

INFO = DatasetInfo("toy", (1, 2, 2), ("a", "b", "c"), (0.5,), (0.5,))


def make(count: int, start: int = 0) -> Split:
    levels = torch.arange(start, start + count * 4).remainder(256).to(torch.uint8)
    return Split(levels.reshape(count, 1, 2, 2), torch.arange(count) % 3)


def test_split_holds_images_and_labels_as_they_came() -> None:
    split = make(5)
    assert len(split) == 5
    moved = split.to("cpu")
    assert torch.equal(moved.images, split.images)
    assert torch.equal(moved.labels, split.labels)


@pytest.mark.parametrize(
    "indices", [[3, 0], torch.tensor([3, 0]), torch.tensor([3, 0], dtype=torch.int32)], ids=str
)
def test_split_subset_keeps_the_order_of_the_indices(indices: torch.Tensor | list[int]) -> None:
    subset = make(5).subset(indices)
    assert subset.labels.tolist() == [0, 0]
    assert subset.images[:, 0, 0, 0].tolist() == [12, 0]


def test_split_subset_takes_masks_and_nothing() -> None:
    split = make(5)
    assert split.subset(split.labels == 1).images[:, 0, 0, 0].tolist() == [4, 16]
    assert len(split.subset([])) == 0


@pytest.mark.parametrize("form", [torch.tensor, np.array, list, tuple])
def test_split_subset_takes_a_mask_of_any_kind(form: Any) -> None:
    split, mask = make(5), [False, True, False, False, True]
    assert split.subset(form(mask)).images[:, 0, 0, 0].tolist() == [4, 16]
    with pytest.raises(DataError, match="one boolean an example, but has 4 for 5 examples"):
        split.subset(form(mask[:4]))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64])
def test_split_subset_takes_whole_numbers_of_any_type(dtype: Any) -> None:
    split = make(5)
    array = np.array([1, 0, 1], dtype)
    for indices in (array, torch.from_numpy(array)):
        assert split.subset(indices).images[:, 0, 0, 0].tolist() == [4, 0, 4]


@pytest.mark.parametrize("wrong", [[1.0, 2.0], np.array([0.5]), torch.zeros(2), [[0, 1]], 3])
def test_split_subset_refuses_what_is_neither_indices_nor_a_mask(wrong: Any) -> None:
    with pytest.raises(DataError, match="list of whole numbers, or by a mask"):
        make(5).subset(wrong)


@pytest.mark.parametrize("shape", [(0, 2, 2), (1, 0, 2), (1, 2, 0)])
def test_split_refuses_images_without_pixels(shape: tuple[int, ...]) -> None:
    for dtype in (torch.uint8, torch.float32):
        with pytest.raises(DataError, match="at least one value along each axis"):
            Split(torch.zeros(2, *shape, dtype=dtype), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_split_rejects_images_that_are_neither_uint8_nor_float32(dtype: torch.dtype) -> None:
    with pytest.raises(DataError, match=rf"Images must be a torch.uint8 .* have type {dtype} .*as_split"):
        Split(torch.zeros(2, 1, 2, 2, dtype=dtype), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("wrong", [1.5, -0.1, torch.nan])
def test_split_rejects_floats_outside_the_unit_range(wrong: float) -> None:
    images = torch.rand(2, 1, 2, 2)
    images[1, 0, 1, 0] = wrong
    with pytest.raises(DataError, match=r"Images must lie in \[0, 1\]"):
        Split(images, torch.zeros(2, dtype=torch.int64))


def test_split_rejects_what_is_no_tensor() -> None:
    with pytest.raises(DataError, match=r"Images must be a tensor, but are a list.*as_split"):
        Split([[1]], torch.zeros(1, dtype=torch.int64))  # type: ignore[arg-type]


def test_split_rejects_images_without_an_axis_of_features() -> None:
    with pytest.raises(DataError, match=r"\(examples, …\).* shape \(2,\)"):
        Split(torch.zeros(2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("labels", [torch.zeros(2), torch.zeros(2, 1, dtype=torch.int64)])
def test_split_rejects_labels_of_other_type_or_shape(labels: torch.Tensor) -> None:
    with pytest.raises(DataError, match=r"Labels must be a torch.int64 tensor of shape \(examples\)"):
        Split(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), labels)


def test_split_rejects_different_lengths() -> None:
    with pytest.raises(DataError, match="2 images and 3 labels"):
        Split(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))


def test_split_rejects_negative_labels() -> None:
    with pytest.raises(DataError, match=r"one is -1. Number the classes"):
        Split(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, -1]))


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_dataset_rejects_labels_beyond_the_classes(part: str) -> None:
    splits = {name: make(2) for name in ("train", "validation", "test")}
    splits[part] = Split(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 3]))
    with pytest.raises(
        DataError, match=f"{part} split of toy has a label 3.* 3 classes.*from 0 to 2.*Name every class"
    ):
        Dataset(INFO, **splits)


def test_dataset_rejects_another_image_shape() -> None:
    odd = Split(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(
        DataError, match=r"test split have shape \(3, 2, 2\), but those of toy have \(1, 2, 2\)"
    ):
        Dataset(INFO, make(2), make(1), odd)


def test_dataset_moves_with_all_its_splits() -> None:
    dataset = Dataset(INFO, make(4), make(0), make(2))
    moved = dataset.to("cpu")
    assert moved.fingerprint == dataset.fingerprint
    assert [len(split) for split in (moved.train, moved.validation, moved.test)] == [4, 0, 2]


def test_fingerprint_never_changes() -> None:
    dataset = Dataset(INFO, make(4), make(0), make(2))
    assert dataset.fingerprint == "b3e2dd4911f669114740995501adca007798d65617fac31568f4b1c4c61de84e"


def test_fingerprint_sees_pixels_labels_and_splits() -> None:
    train, test = make(4), make(2)
    pixels, labels = train.images.clone(), train.labels.clone()
    pixels[3, 0, 1, 1] += 1
    labels[3] += 1
    variants = [
        Dataset(INFO, train, make(0), test),
        Dataset(INFO, Split(pixels, train.labels), make(0), test),
        Dataset(INFO, Split(train.images, labels), make(0), test),
        Dataset(INFO, train, test, make(0)),
        Dataset(INFO, train.subset([1, 0, 2, 3]), make(0), test),
    ]
    assert len({dataset.fingerprint for dataset in variants}) == len(variants)


def test_fingerprint_does_not_depend_on_memory_layout() -> None:
    train = make(4)
    turned = Split(
        train.images.transpose(2, 3).clone(memory_format=torch.contiguous_format).transpose(2, 3),
        train.labels,
    )
    assert not turned.images.is_contiguous()
    assert torch.equal(turned.images, train.images)
    first, second = (Dataset(INFO, split, make(0), make(1)) for split in (train, turned))
    assert first.fingerprint == second.fingerprint


def test_data_set_takes_splits_alone() -> None:
    with pytest.raises(DataError, match=r"validation split must be a withstand\.data\.Split, but is a tuple"):
        Dataset(INFO, make(3), (1, 2), make(3))  # type: ignore[arg-type]
