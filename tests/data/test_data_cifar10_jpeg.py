from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from withstand.core.dataset_info import KNOWN_DATASETS
from withstand.data import cifar10_jpeg, load, locations
from withstand.data.locations import remove_left_overs, staged
from withstand.data.split import Parts
from withstand.types import DataError

CLASSES = KNOWN_DATASETS["cifar10-jpeg"].class_names
WritePicture = Callable[..., Path]


def levels(parts: Parts) -> list[int]:
    return parts.train.images[:, 0, 0, 0].tolist()


def read(root: Path) -> Parts:
    return cifar10_jpeg.read_cifar10_jpeg(KNOWN_DATASETS["cifar10-jpeg"], root)


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Parts:
        raise RuntimeError("decoded again")

    monkeypatch.setattr(cifar10_jpeg, "_decode", fail)


@pytest.fixture
def folder_root(tmp_path: Path, write_picture: WritePicture) -> Path:
    """A data root with the unpacked folder: two training pictures and one test picture a class."""
    folder = tmp_path / "root" / "cifar10_jpegs"
    for label, name in enumerate(CLASSES):
        grey = (label * 20,) * 3
        write_picture(folder / "train" / name / "0001.jpg", tuple(level + 1 for level in grey), size=(32, 32))
        write_picture(folder / "train" / name / "0000.jpg", grey, size=(32, 32))
        write_picture(folder / "test" / name / "0000.jpg", grey, size=(32, 32))
    return folder.parent


@pytest.fixture
def archive_root(folder_root: Path, tmp_path: Path) -> Path:
    """A data root with the archive, its members in an order that is not sorted."""
    root = tmp_path / "packed"
    root.mkdir()
    (folder_root / "cifar10_jpegs" / "README.md").write_text("hello")
    with tarfile.open(root / "cifar10_jpegs.tar.xz", "w:xz", preset=0) as archive:
        for path in sorted((folder_root / "cifar10_jpegs").rglob("*"), reverse=True):
            archive.add(path, path.relative_to(folder_root / "cifar10_jpegs"), recursive=False)
    return root


def test_cifar10_jpeg_folder_is_read_in_sorted_order(folder_root: Path) -> None:
    parts = read(folder_root)
    assert levels(parts) == [label * 20 + number for label in range(10) for number in (0, 1)]
    assert parts.train.labels.tolist() == [label for label in range(10) for _ in (0, 1)]
    assert parts.test.labels.tolist() == list(range(10))
    assert parts.test.images.shape == (10, 3, 32, 32)


def test_cifar10_jpeg_archive_holds_the_same_as_the_folder(folder_root: Path, archive_root: Path) -> None:
    from_folder, from_archive = read(folder_root), read(archive_root)
    assert torch.equal(from_folder.train.images, from_archive.train.images)
    assert torch.equal(from_folder.train.labels, from_archive.train.labels)
    assert torch.equal(from_folder.test.images, from_archive.test.images)


def test_cifar10_jpeg_is_labelled_as_what_it_is(archive_root: Path) -> None:
    dataset = load("cifar10-jpeg", root=archive_root)
    assert dataset.info.name == "cifar10-jpeg"
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (18, 2, 10)


@pytest.mark.parametrize("place", ["folder_root", "archive_root"])
def test_cifar10_jpeg_pictures_are_decoded_once(
    place: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    root: Path = request.getfixturevalue(place)
    first = read(root)
    forbid_decoding(monkeypatch)
    again = read(root)
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.test.labels, again.test.labels)


def test_cifar10_jpeg_archive_is_decoded_again_when_it_changes(
    archive_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(archive_root)
    forbid_decoding(monkeypatch)
    os.utime(archive_root / "cifar10_jpegs.tar.xz", ns=(1, 1))
    with pytest.raises(RuntimeError, match="decoded again"):
        read(archive_root)


def test_cifar10_jpeg_folder_is_decoded_again_when_a_picture_is_added(
    folder_root: Path, write_picture: WritePicture
) -> None:
    read(folder_root)
    write_picture(folder_root / "cifar10_jpegs" / "test" / "cat" / "new.jpg", (9, 9, 9), size=(32, 32))
    assert len(read(folder_root).test) == 11


def test_cifar10_jpeg_cache_is_replaced_where_damaged(
    archive_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = read(archive_root)
    (cache_file,) = locations.cache_folder().iterdir()
    cache_file.write_bytes(cache_file.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        parts = read(archive_root)
    assert torch.equal(parts.train.images, expected.train.images)
    assert f"Ignoring the damaged cache file {cache_file}" in caplog.text
    assert cache_file.stat().st_size > 100


def test_cifar10_jpeg_cache_that_cannot_be_written_is_no_error(
    archive_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("WITHSTAND_CACHE", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        assert len(read(archive_root).train) == 20
    assert "Cannot keep decoded images" in caplog.text


def test_cifar10_jpeg_cache_leaves_nothing_after_a_failed_write(
    archive_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(cifar10_jpeg, "save_file", fail)
    read(archive_root)
    assert list(locations.cache_folder().iterdir()) == []


def test_cifar10_jpeg_cache_has_a_place_of_its_own_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WITHSTAND_CACHE")
    assert locations.cache_folder().name == "withstand"


def test_cifar10_jpeg_that_is_missing_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path)
    message = str(error.value)
    assert f"{tmp_path} lacks cifar10_jpegs.tar.xz or cifar10_jpegs/" in message
    assert "by hand" in message
    assert "WITHSTAND_DATA" in message


@pytest.mark.parametrize("cut", [10, -400, -40, -8, -1])  # the last ones take no picture away
def test_cifar10_jpeg_archive_is_damaged_where_truncated(archive_root: Path, cut: int) -> None:
    path = archive_root / "cifar10_jpegs.tar.xz"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(
        DataError, match=r"cifar10_jpegs.tar.xz is damaged: it cannot be unpacked .*Delete it"
    ):
        read(archive_root)


def test_cifar10_jpeg_refuses_other_classes_as_damage(folder_root: Path, write_picture: WritePicture) -> None:
    write_picture(folder_root / "cifar10_jpegs" / "train" / "zebra" / "0.jpg", (0, 0, 0), size=(32, 32))
    with pytest.raises(DataError, match=r"train/zebra/0.jpg is not in train/CLASS/ or test/CLASS/"):
        read(folder_root)


def test_cifar10_jpeg_refuses_a_missing_part_as_damage(folder_root: Path) -> None:
    (folder_root / "cifar10_jpegs" / "test").rename(folder_root / "gone")
    with pytest.raises(DataError, match=r"it lacks pictures in train/CLASS/.*test/CLASS/"):
        read(folder_root)


def test_cifar10_jpeg_refuses_another_size(folder_root: Path) -> None:
    path = folder_root / "cifar10_jpegs" / "train" / "dog" / "0000.jpg"
    Image.new("RGB", (33, 32)).save(path)
    with pytest.raises(DataError, match=r"train/dog/0000.jpg is 33 x 32 pixels"):
        read(folder_root)


def test_cifar10_jpeg_archive_is_refused_where_a_picture_is_far_too_large(archive_root: Path) -> None:
    path = archive_root / "cifar10_jpegs.tar.xz"
    with tarfile.open(path, "w:xz") as archive:
        member = tarfile.TarInfo("cifar10_jpegs/train/cat/0.jpg")
        member.size = 50_000_000
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(DataError, match=r"0.jpg has 50,000,000 bytes .* at most 100,000 bytes"):
        read(archive_root)


def test_cifar10_jpeg_cache_is_rid_of_what_a_killed_process_left(archive_root: Path) -> None:
    script = (
        "import os, pathlib, sys; from withstand.data.locations import staged\n"
        "with staged(pathlib.Path(sys.argv[1])) as stage:\n"
        "    (stage / 'half').write_bytes(bytes(1000)); os.kill(os.getpid(), 9)"
    )
    folder = locations.cache_folder()
    read(archive_root)
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script, str(folder)], check=False, env=surroundings)
    (left,) = folder.glob(".partial-*")
    assert (left / "half").is_file()
    with staged(folder) as stage:  # of a process that is there
        read(archive_root)  # from the cache, so that nothing is written
        assert list(folder.glob(".partial-*")) == [stage]


def test_left_overs_of_other_machines_go_after_a_day(tmp_path: Path) -> None:
    old, new = (tmp_path / f".partial-elsewhere-{number}-x" for number in (1, 2))
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (0, 0))
    remove_left_overs(tmp_path)
    assert list(tmp_path.iterdir()) == [new]
