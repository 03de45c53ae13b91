from __future__ import annotations

import os
from pathlib import Path

import pytest

from withstand.data import load, verify
from withstand.data.split import channel_statistics


@pytest.fixture
def real_root() -> Path:
    """The user's data root, where there is one."""
    root = os.environ.get("WITHSTAND_DATA")
    if not root:
        pytest.skip("WITHSTAND_DATA names no folder with the real data")
    return Path(root)


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_load_reads_real_idx_files(real_root: Path, name: str, folder: str) -> None:
    if not (real_root / folder).is_dir():
        pytest.skip(f"{real_root} holds no {folder}")
    verify(name, real_root)
    dataset = load(name, root=real_root, validation_size=0)
    assert (len(dataset.train), len(dataset.test)) == (60_000, 10_000)
    mean, std = channel_statistics(dataset.train.images)
    assert dataset.info.mean == pytest.approx(mean, abs=1e-4)
    assert dataset.info.std == pytest.approx(std, abs=1e-4)


def test_load_reads_real_cifar10_jpegs(real_root: Path) -> None:
    if not (real_root / "cifar10_jpegs.tar.xz").is_file():
        pytest.skip(f"{real_root} holds no cifar10_jpegs.tar.xz")
    dataset = load("cifar10-jpeg", root=real_root, validation_size=0)
    assert dataset.train.labels.bincount().tolist() == [5000] * 10
    assert dataset.test.labels.bincount().tolist() == [1000] * 10
    mean, _ = channel_statistics(dataset.train.images)
    assert dataset.info.mean == pytest.approx(mean, abs=2e-3)
