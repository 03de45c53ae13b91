from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from withstand.core.dataset_info import KNOWN_DATASETS
from withstand.data.idx import IDX_FILES, read_idx
from withstand.types import DataError

INFO = KNOWN_DATASETS["mnist"]
FOLDER = "MNIST/raw"
Arrays = dict[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]


def read(root: Path) -> object:
    return read_idx(INFO, root, folder=FOLDER)


def raw(root: Path, name: str) -> Path:
    return root / FOLDER / f"{name}.gz"


def test_read_idx_reads_what_was_written(mnist_root: Path, mnist_arrays: Arrays) -> None:
    parts = read_idx(INFO, mnist_root, folder=FOLDER)
    values = [parts.train.images[:, 0], parts.train.labels, parts.test.images[:, 0], parts.test.labels]
    for value, expected in zip(values, mnist_arrays.values(), strict=True):
        assert np.array_equal(value.numpy(), expected)
    assert parts.train.images.shape == (40, 1, 28, 28)
    assert parts.test.labels.dtype == torch.int64


def test_read_idx_takes_unpacked_files(mnist_root: Path) -> None:
    packed = read_idx(INFO, mnist_root, folder=FOLDER)
    for name in IDX_FILES:
        path = raw(mnist_root, name)
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    unpacked = read_idx(INFO, mnist_root, folder=FOLDER)
    assert torch.equal(packed.train.images, unpacked.train.images)
    assert torch.equal(packed.test.labels, unpacked.test.labels)


def test_read_idx_names_missing_files_with_place_and_remedy(mnist_root: Path) -> None:
    raw(mnist_root, "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(DataError) as error:
        read(mnist_root)
    message = str(error.value)
    assert f"{mnist_root / FOLDER} lacks t10k-images-idx3-ubyte.gz." in message
    assert "`withstand data fetch mnist`" in message
    assert "by hand" in message
    assert "--data.root" in message
    assert "WITHSTAND_DATA" in message


@pytest.mark.parametrize("name", IDX_FILES)
def test_read_idx_refuses_a_truncated_gzip_file(mnist_root: Path, name: str) -> None:
    path = raw(mnist_root, name)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match=f"{name}.gz is damaged: it cannot be unpacked.*Delete it and fetch"):
        read(mnist_root)


def test_read_idx_refuses_a_flipped_bit(mnist_root: Path) -> None:
    path = raw(mnist_root, "train-images-idx3-ubyte")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz is damaged: it cannot be unpacked"):
        read(mnist_root)


def test_read_idx_refuses_a_file_that_is_not_gzip(mnist_root: Path) -> None:
    raw(mnist_root, "train-labels-idx1-ubyte").write_text("<html>Please log in</html>")
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte.gz is damaged: it cannot be unpacked"):
        read(mnist_root)


@pytest.mark.parametrize("data", [b"", b"\0\0\x08", b"\0\0\x08\x03\0\0\0\1", b"\0\0\x0d\x01\0\0\0\0"])
def test_read_idx_refuses_a_wrong_header(mnist_root: Path, data: bytes) -> None:
    raw(mnist_root, "train-labels-idx1-ubyte").write_bytes(gzip.compress(data))
    with pytest.raises(DataError, match=f"begins with {data[:4].hex(' ')}, not as an idx file"):
        read(mnist_root)


@pytest.mark.parametrize("change", [-1, 1])
def test_read_idx_refuses_too_few_or_too_many_values(mnist_root: Path, change: int) -> None:
    path = raw(mnist_root, "t10k-labels-idx1-ubyte")
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data[:-1] if change < 0 else data + b"\0"))
    with pytest.raises(DataError, match=f"its header promises 7 values, but {7 + change} follow"):
        read(mnist_root)


def test_read_idx_refuses_another_image_size(mnist_root: Path, write_idx: Callable[..., Path]) -> None:
    write_idx(raw(mnist_root, "train-images-idx3-ubyte"), np.zeros((40, 28, 27)))
    with pytest.raises(DataError, match=r"items have shape \(28, 27\) instead of \(28, 28\)"):
        read(mnist_root)


def test_read_idx_needs_as_many_labels_as_images(mnist_root: Path, write_idx: Callable[..., Path]) -> None:
    write_idx(raw(mnist_root, "train-labels-idx1-ubyte"), np.zeros(39))
    with pytest.raises(
        DataError, match=r"train-labels-idx1-ubyte.gz is damaged: it holds 39 labels for the 40"
    ):
        read(mnist_root)


@pytest.mark.parametrize("promised", [8, 3_000_000_000])
def test_read_idx_unpacks_no_more_than_its_header_promises(
    mnist_root: Path, promised: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = raw(mnist_root, "t10k-labels-idx1-ubyte")
    bomb = bytes([0, 0, 8, 1]) + promised.to_bytes(4, "big") + bytes(50_000_000)
    path.write_bytes(gzip.compress(bomb, 1))
    unpacked = 0
    read_part = gzip.GzipFile.read

    def counted(file: gzip.GzipFile, size: int | None = -1) -> bytes:
        nonlocal unpacked
        part = read_part(file, size)
        unpacked += len(part)
        return part

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(DataError, match=r"promises 8 values, but 9 follow at least|at most 1,000,000 are"):
        read(mnist_root)
    assert unpacked < 100_000  # the training files among it
