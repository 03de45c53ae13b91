from __future__ import annotations

import pytest
import torch

from withstand.core.dataset_info import KNOWN_DATASETS
from withstand.data.split import channel_statistics


def test_dataset_infos_are_complete() -> None:
    assert {name: (info.shape, info.num_classes) for name, info in KNOWN_DATASETS.items()} == {
        "digits": ((1, 8, 8), 10),
        "mnist": ((1, 28, 28), 10),
        "fashion-mnist": ((1, 28, 28), 10),
        "cifar10": ((3, 32, 32), 10),
        "cifar100": ((3, 32, 32), 100),
        "cifar10-jpeg": ((3, 32, 32), 10),
    }
    for info in KNOWN_DATASETS.values():
        assert len(info.mean) == len(info.std) == info.shape[0]
        assert len(set(info.class_names)) == info.num_classes


def test_cifar100_names_are_in_label_order() -> None:
    names = list(KNOWN_DATASETS["cifar100"].class_names)
    assert names == sorted(names)
    assert (names[0], names[50], names[99]) == ("apple", "mouse", "worm")


def test_channel_statistics_are_those_of_floats() -> None:
    images = torch.randint(256, (11, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = channel_statistics(images)
    floats = images.double() / 255
    assert mean == pytest.approx(floats.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert std == pytest.approx(floats.std((0, 2, 3), correction=0).tolist(), abs=1e-12)


def test_channel_statistics_of_a_constant_channel_can_be_divided_by() -> None:
    mean, std = channel_statistics(torch.full((2, 1, 3, 3), 51, dtype=torch.uint8))
    assert mean == pytest.approx((0.2,))
    assert std == (1 / 255,)
