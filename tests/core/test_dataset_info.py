from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from withstand.core.dataset_info import KNOWN_DATASETS, DatasetInfo
from withstand.types import DataError


@pytest.mark.parametrize("info", KNOWN_DATASETS.values(), ids=KNOWN_DATASETS)
def test_dataset_info_statistics_and_names_fit_its_shape(info: DatasetInfo) -> None:
    assert KNOWN_DATASETS[info.name] is info
    assert len(info.mean) == len(info.std) == info.shape[0]
    assert all(0 < value < 1 for value in (*info.mean, *info.std))
    assert len(set(info.class_names)) == info.num_classes == (100 if info.name == "cifar100" else 10)


@pytest.mark.parametrize(
    ("dataset", "label", "name"),
    [
        ("mnist", 7, "7"),
        ("fashion-mnist", 0, "T-shirt/top"),
        ("fashion-mnist", 9, "Ankle boot"),
        ("cifar10", 0, "airplane"),
        ("cifar10-jpeg", 9, "truck"),
        ("cifar100", 0, "apple"),
        ("cifar100", 41, "lawn_mower"),
        ("cifar100", 72, "seal"),
        ("cifar100", 99, "worm"),
    ],
)
def test_dataset_info_gives_a_label_its_official_name(dataset: str, label: int, name: str) -> None:
    assert KNOWN_DATASETS[dataset].class_names[label] == name


def test_cifar100_names_are_in_alphabetical_order_as_its_labels_are() -> None:
    names = list(KNOWN_DATASETS["cifar100"].class_names)
    assert names == sorted(names)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([0, 1], ("0", "1")),
        (np.array([3, 7]), ("3", "7")),
        (torch.tensor([3, 7]), ("3", "7")),
        (np.array(["a", "b"]), ("a", "b")),
        ((name for name in "ab"), ("a", "b")),
    ],
)
def test_class_names_are_text(names: Any, expected: tuple[str, ...]) -> None:
    info = DatasetInfo("mine", (1, 2, 2), names, (0.5,), (0.5,))
    assert info.class_names == expected
    assert {type(name) for name in info.class_names} == {str}


@pytest.mark.parametrize("names", [["a", "b", "a"], [1, 2, "1"], [None, "x", None]])
def test_class_names_are_all_different(names: Any) -> None:
    with pytest.raises(DataError, match="stands for classes 0, 2"):
        DatasetInfo("mine", (1, 2, 2), names, (0.5,), (0.5,))
