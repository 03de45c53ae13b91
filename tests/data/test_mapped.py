"""Images that stay on disk: read row by row, and for training the same as those in memory, bit for bit."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typing_extensions import override

import withstand as ws
from withstand.data import Augment, Dataset, as_dataset, batches, from_arrays, load
from withstand.data.mapped import MappedImages, ahead
from withstand.training import Observer, TrainingSettings
from withstand.types import DataError

_DRAW = np.random.default_rng(0)
LEVELS = _DRAW.integers(0, 256, (90, 1, 6, 5), np.uint8)
LABELS = _DRAW.integers(0, 3, 90)
FORMS: dict[str, Callable[[], NDArray[Any]]] = {
    "levels": lambda: LEVELS,
    "floats of levels": lambda: LEVELS.astype(np.float32) / 255,
    "floats": lambda: _DRAW.random(LEVELS.shape, np.float32),
    "doubles": lambda: _DRAW.random(LEVELS.shape),
    "booleans": lambda: LEVELS > 99,
}


def both(array: NDArray[Any], file: Path) -> tuple[Dataset, Dataset]:
    """The same data, in memory and on disk."""
    np.save(file, array)
    test = (array[:10], LABELS[:10])
    stored = np.load(file, mmap_mode="r")
    return from_arrays((array, LABELS), test), from_arrays((stored, LABELS), test)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Dataset, Dataset]:
    return both(LEVELS, tmp_path / "images.npy")


@pytest.mark.parametrize("form", FORMS)
def test_data_on_disk_are_those_in_memory(form: str, tmp_path: Path) -> None:
    memory, disk = both(FORMS[form](), tmp_path / "images.npy")
    assert isinstance(disk.train.images, MappedImages)
    assert isinstance(disk.validation.images, MappedImages)
    assert disk.fingerprint == memory.fingerprint
    assert disk.info == memory.info
    order = torch.randperm(len(memory.train))
    for mine, theirs in zip(*(batches(of.train, 7, order=order) for of in (disk, memory)), strict=True):
        assert torch.equal(mine.images, theirs.images)
        assert torch.equal(mine.labels, theirs.labels)


@pytest.mark.parametrize(
    "index",
    [
        3,
        -1,
        slice(2, 9),
        slice(None, None, 3),
        torch.tensor([5, 5, 0]),
        torch.arange(81) % 2 == 0,
        (4, 0),
        (slice(3), 0, 1),
        ...,
        None,
    ],
    ids=str,
)
def test_images_on_disk_are_indexed_as_a_tensor_is(index: Any, pair: tuple[Dataset, Dataset]) -> None:
    memory, disk = (dataset.train.images for dataset in pair)
    assert type(disk[index]) is torch.Tensor
    assert torch.equal(disk[index], memory[index])


def test_images_on_disk_count_as_a_tensor(pair: tuple[Dataset, Dataset]) -> None:
    memory, disk = (dataset.train.images for dataset in pair)
    assert (disk.shape, disk.dtype, len(disk)) == (memory.shape, memory.dtype, len(memory))
    assert torch.equal(disk.float().mean((0, 2, 3)), memory.float().mean((0, 2, 3)))
    assert torch.equal(torch.cat([disk, memory]), torch.cat([memory, memory]))


def test_a_choice_of_images_on_disk_reads_none(
    pair: tuple[Dataset, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, disk = pair
    read: list[int] = []
    before = MappedImages.__getitem__

    def counted(images: MappedImages, index: Any) -> torch.Tensor:
        got = before(images, index)
        read.append(len(got))
        return got

    monkeypatch.setattr(MappedImages, "__getitem__", counted)
    chosen = ws.data.sample(disk.train, 20).to("cpu").subset(torch.arange(20) < 6)
    assert not read
    (batch,) = batches(chosen, 6)
    assert read == [6]
    expected = ws.data.sample(memory.train, 20).subset(range(6))
    assert torch.equal(batch.images * 255, expected.images.float())


def test_images_on_disk_outside_the_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"range from 0 to 255|do not normalise"):
        both(LEVELS.astype(np.float32), tmp_path / "images.npy")


def test_batches_that_are_left_early_end_their_thread(pair: tuple[Dataset, Dataset]) -> None:
    before = threading.active_count()
    drawn = batches(pair[1].train, 5)
    next(drawn)
    drawn.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_what_is_read_ahead_comes_in_order_and_fails_in_its_place() -> None:
    def read(number: int) -> int:
        return 12 // (4 - number)

    drawn = ahead(lambda number=number: read(number) for number in range(6))  # type: ignore[misc]
    assert [next(drawn) for _ in range(4)] == [3, 4, 6, 12]
    with pytest.raises(ZeroDivisionError):
        next(drawn)


# -- training ---------------------------------------------------------------------------------------


class StopAt(Observer):
    """Interrupts a training, as Ctrl-C would."""

    def __init__(self, step: int) -> None:
        self.step = step

    @override
    def on_step(self, done: int, total: int) -> None:
        if done == self.step:
            raise KeyboardInterrupt

    @override
    def on_epoch(self, rows: object) -> None:
        pass


def trained(dataset: Dataset, out: Path, *, stops_at: int = 0) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = ws.models.create("mlp", dataset=dataset.info, hidden=[8])
    settings = TrainingSettings(
        epochs=2, batch_size=16, accelerator="cpu", augment=Augment(1), checkpoint_seconds=0.0
    )
    objective = ws.objectives.Adversarial(ws.attacks.PGD(epsilon=0.1, num_steps=2))
    observers = [StopAt(stops_at)] if stops_at else []
    ws.fit(model, dataset, objective, settings, out=out, observers=observers)
    return [*model.state_dict().values()]


def test_training_from_disk_ends_with_the_weights_of_one_from_memory_resumed_or_not(
    pair: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    memory, disk = pair
    expected = trained(memory, tmp_path / "memory")
    assert all(map(torch.equal, trained(disk, tmp_path / "disk"), expected))
    with pytest.raises(KeyboardInterrupt):
        trained(disk, tmp_path / "parts", stops_at=8)
    assert all(map(torch.equal, trained(disk, tmp_path / "parts"), expected))


def test_evaluation_from_disk_gives_the_figures_of_one_from_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "test.npy", LEVELS)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(30, 3))
    meters = [ws.meters.NoiseCurve(num_levels=2)]
    rows = [
        ws.evaluate(model, from_arrays(None, (images, LABELS)), meters, batch_size=40).rows
        for images in (LEVELS, np.load(tmp_path / "test.npy", mmap_mode="r"))
    ]
    assert rows[0].equals(rows[1])


# -- what does not fit into memory ------------------------------------------------------------------


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing fits into memory; the folder for what is written instead."""
    monkeypatch.setenv("WITHSTAND_MEMORY", "1e-9")
    return tmp_path / "cache"


def test_folder_larger_than_memory_is_decoded_once(
    picture_folder: Path,
    little_memory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = load(f"folder:{picture_folder}")
    assert "more than the 1e-09 GiB that they may in memory (WITHSTAND_MEMORY)" in caplog.text
    files = sorted(little_memory.iterdir())
    assert len(files) == 2
    caplog.clear()
    again = load(f"folder:{picture_folder}")
    assert "later runs use too" not in caplog.text
    assert sorted(little_memory.iterdir()) == files
    os.utime(picture_folder / "train" / "ant" / "0.png", ns=(1, 1))
    load(f"folder:{picture_folder}")
    assert len([*little_memory.iterdir()]) == 3
    monkeypatch.delenv("WITHSTAND_MEMORY")
    in_memory = load(f"folder:{picture_folder}")
    assert first.fingerprint == again.fingerprint == in_memory.fingerprint
    assert not isinstance(in_memory.train.images, MappedImages)


def test_npz_larger_than_memory_is_unpacked_once(little_memory: Path, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", images=LEVELS, labels=LABELS)
    first, again = (as_dataset(tmp_path / "a.npz") for _ in range(2))
    assert isinstance(again.train.images, MappedImages)
    assert first.fingerprint == again.fingerprint == from_arrays((LEVELS, LABELS)).fingerprint
    assert len([*little_memory.glob("a-*.npy")]) == 2


def test_items_larger_than_memory_leave_no_file(little_memory: Path) -> None:
    source = [(image, int(label)) for image, label in zip(LEVELS, LABELS, strict=True)]
    dataset = as_dataset(torch.utils.data.Subset(source, range(90)))  # type: ignore[arg-type]
    assert isinstance(dataset.train.images, MappedImages)
    assert dataset.fingerprint == from_arrays((LEVELS, LABELS)).fingerprint
    assert not [*little_memory.iterdir()]


def test_memory_is_a_number(monkeypatch: pytest.MonkeyPatch, picture_folder: Path) -> None:
    monkeypatch.setenv("WITHSTAND_MEMORY", "much")
    with pytest.raises(DataError, match="WITHSTAND_MEMORY is how many GiB"):
        load(f"folder:{picture_folder}")
