from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from withstand.core.dataset_info import KNOWN_DATASETS
from withstand.data.cifar import CIFAR10, CIFAR100, CifarFiles, read_cifar
from withstand.types import DataError

SMALL10 = replace(CIFAR10, train=dict.fromkeys(CIFAR10.train, 3), test={"test_batch.bin": 2})
SMALL100 = replace(CIFAR100, train={"train.bin": 4}, test={"test.bin": 2})


def write(root: Path, files: CifarFiles) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """Writes random records; returns them by file name."""
    draw = np.random.default_rng(0)
    (root / files.folder).mkdir()
    written = {}
    for name, count in {**files.train, **files.test}.items():
        records = draw.integers(0, 256, (count, files.label_bytes + 3072), np.uint8)
        # Coarse labels differ from fine ones, so that mistaking one for the other shows.
        records[:, 0] %= 10
        records[:, files.label_bytes - 1] = (records[:, 0] + 10 * (files.label_bytes - 1)) % 100
        records.tofile(root / files.folder / name)
        written[name] = records
    return written


def test_cifar_files_have_the_official_sizes() -> None:
    assert CIFAR10.sizes == dict.fromkeys([*CIFAR10.train, "test_batch.bin"], 30_730_000)
    assert list(CIFAR10.train) == [f"data_batch_{number}.bin" for number in (1, 2, 3, 4, 5)]
    assert CIFAR100.sizes == {"train.bin": 153_700_000, "test.bin": 30_740_000}


@pytest.mark.parametrize(("name", "files"), [("cifar10", SMALL10), ("cifar100", SMALL100)])
def test_read_cifar_reads_what_was_written(tmp_path: Path, name: str, files: CifarFiles) -> None:
    written = write(tmp_path, files)
    parts = read_cifar(KNOWN_DATASETS[name], tmp_path, files=files)
    train = np.concatenate([written[file] for file in files.train])
    for split, records in ((parts.train, train), (parts.test, written[next(iter(files.test))])):
        assert split.labels.tolist() == records[:, files.label_bytes - 1].tolist()
        assert split.images.shape == (len(records), 3, 32, 32)
        # Planes are red, green, blue, and row by row.
        assert np.array_equal(split.images[:, 1, 2, 5], records[:, files.label_bytes + 1024 + 2 * 32 + 5])
        assert np.array_equal(split.images.flatten(1), records[:, files.label_bytes :])


def test_read_cifar_names_missing_files_with_place_and_remedy(tmp_path: Path) -> None:
    write(tmp_path, SMALL10)
    (tmp_path / SMALL10.folder / "data_batch_3.bin").unlink()
    with pytest.raises(
        DataError, match=r"cifar-10-batches-bin lacks data_batch_3.bin. .*data fetch cifar10`"
    ):
        read_cifar(KNOWN_DATASETS["cifar10"], tmp_path, files=SMALL10)


@pytest.mark.parametrize("change", [-3073, -1, 1])
def test_read_cifar_refuses_another_length_as_damage(tmp_path: Path, change: int) -> None:
    records = write(tmp_path, SMALL10)["test_batch.bin"].tobytes()
    path = tmp_path / SMALL10.folder / "test_batch.bin"
    path.write_bytes(records[:change] if change < 0 else records + b"\0")
    message = f"test_batch.bin is damaged: it has {6146 + change} bytes instead of 6146. Delete it"
    with pytest.raises(DataError, match=message):
        read_cifar(KNOWN_DATASETS["cifar10"], tmp_path, files=SMALL10)
