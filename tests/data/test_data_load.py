from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from withstand.core.dataset_info import KNOWN_DATASETS
from withstand.data import NAMES, info, load
from withstand.data.cifar import CIFAR10, read_cifar
from withstand.data.load import READERS, read_digits
from withstand.data.split import Split
from withstand.types import DataError


def pictures(split: Split) -> set[bytes]:
    return {bytes(image.flatten().tolist()) for image in split.images}


def test_load_has_a_reader_and_an_entry_for_every_name() -> None:
    assert set(READERS) == set(KNOWN_DATASETS)
    assert list(NAMES) == [*READERS, "folder:PATH", "PATH.npz", "FILE.py:FUNCTION", "hub:OWNER/NAME"]


def test_load_of_digits_needs_no_files() -> None:
    dataset = load("digits", root="/nowhere")
    assert dataset.info == info("digits") == KNOWN_DATASETS["digits"]
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (1294, 143, 360)


def test_load_validates_on_former_training_data_and_never_on_test_data() -> None:
    parts = read_digits(KNOWN_DATASETS["digits"], Path("unused"))
    for seed in range(3):
        dataset = load("digits", seed=seed, validation_size=300)
        train, validation, test = map(pictures, (dataset.train, dataset.validation, dataset.test))
        assert train | validation == pictures(parts.train)
        assert not train & validation
        assert not (train | validation) & test
        assert torch.equal(dataset.test.images, parts.test.images)


def test_load_splits_by_the_seed_and_nothing_else() -> None:
    first, again, other = (load("digits", seed=seed) for seed in (1, 1, 2))
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint


def test_load_takes_sizes_as_options() -> None:
    dataset = load("digits", validation_size=20, train_size=100)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (100, 20, 360)


def test_load_reads_mnist_below_the_named_root(mnist_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = load("mnist", root=mnist_root)
    assert (len(named.train), len(named.validation), len(named.test)) == (36, 4, 7)
    monkeypatch.setenv("WITHSTAND_DATA", str(mnist_root))
    assert load("mnist").fingerprint == named.fingerprint
    monkeypatch.delenv("WITHSTAND_DATA")
    monkeypatch.chdir(mnist_root)
    with pytest.raises(DataError, match=f"{mnist_root}/data/MNIST/raw lacks train-images"):
        load("mnist")


def test_load_reads_fashion_from_a_folder_of_its_own(mnist_root: Path) -> None:
    with pytest.raises(DataError, match=r"FashionMNIST/raw lacks .*`withstand data fetch fashion-mnist`"):
        load("fashion-mnist", root=mnist_root)
    (mnist_root / "MNIST").rename(mnist_root / "FashionMNIST")
    assert load("fashion-mnist", root=mnist_root).info.name == "fashion-mnist"


@pytest.mark.parametrize(
    ("name", "folder"), [("cifar10", "cifar-10-batches-bin"), ("cifar100", "cifar-100-binary")]
)
def test_load_of_cifar_says_what_is_missing(tmp_path: Path, name: str, folder: str) -> None:
    with pytest.raises(DataError, match=f"{folder} lacks .*`withstand data fetch {name}`"):
        load(name, root=tmp_path)


def test_load_refuses_labels_beyond_the_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = replace(CIFAR10, train={"train.bin": 20}, test={"test.bin": 5})
    monkeypatch.setitem(READERS, "cifar10", partial(read_cifar, files=files))
    (tmp_path / files.folder).mkdir()
    records = np.zeros((20, 3073), np.uint8)
    records.tofile(tmp_path / files.folder / "train.bin")
    records[:5].tofile(tmp_path / files.folder / "test.bin")
    assert len(load("cifar10", root=tmp_path).train) == 18
    records[:, 0] = 10
    records[:5].tofile(tmp_path / files.folder / "test.bin")
    with pytest.raises(DataError, match="test split of cifar10 has a label 10, but there are 10 classes"):
        load("cifar10", root=tmp_path)


def test_load_takes_a_folder_of_pictures_by_its_path(picture_folder: Path) -> None:
    dataset = load(f"folder:{picture_folder}")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (11, 1, 3)
    assert dataset.info == info(f"folder:{picture_folder}")
    assert load(f"folder:{picture_folder}", size=5).info.shape == (3, 5, 5)
    assert info(f"folder:{picture_folder}", size=5).shape == (3, 5, 5)


@pytest.mark.parametrize(
    ("name", "near"), [("mnits", "mnist"), ("Fashion_MNIST", "fashion-mnist"), ("cifar-10", "cifar10")]
)
def test_load_suggests_the_nearest_name(name: str, near: str) -> None:
    message = f"no data set '{name}'; did you mean '{near}'\\? There are: digits, mnist, .*folder:PATH"
    with pytest.raises(DataError, match=message):
        load(name)
    with pytest.raises(DataError, match=message):
        info(name)


@pytest.mark.parametrize("name", ["", "zzzzzzzz"])
def test_load_lists_all_names_for_a_name_like_no_other(name: str) -> None:
    with pytest.raises(DataError, match=f"no data set '{name}'; .*There are: digits, mnist"):
        load(name)


def test_load_of_a_folder_needs_a_path() -> None:
    with pytest.raises(DataError, match=r"no data set 'folder:'.*folder:PATH"):
        load("folder:")


def test_load_resizes_only_folders() -> None:
    with pytest.raises(DataError, match="digits takes no size, but it is 16"):
        load("digits", size=16)


@pytest.mark.parametrize("name", [None, 5, b"digits", Path("pictures")])
def test_load_takes_a_text_alone(name: Any) -> None:
    hint = "folder:pictures" if isinstance(name, Path) else "digits"
    with pytest.raises(DataError, match=rf"named by a text, such as '{hint}', but this is"):
        load(name)
    with pytest.raises(DataError, match="named by a text"):
        info(name)


def test_load_refuses_a_negative_seed() -> None:
    with pytest.raises(ValueError, match=r"Expected seed from 0 to .* got -1"):
        load("digits", seed=-1)


def test_load_takes_a_seed_as_a_whole_number_however_it_is_given() -> None:
    prints = [load("digits", seed=seed).fingerprint for seed in (1, 1.0, "1", torch.tensor(1))]  # type: ignore[arg-type]
    assert len({*prints}) == 1


def test_load_says_that_a_choice_of_training_examples_lacks_classes(caplog: pytest.LogCaptureFixture) -> None:
    load("digits")
    assert caplog.text == ""
    load("digits", train_size=1)
    assert "digits: 9 of 10 classes have no training images" in caplog.text


def test_load_says_that_test_pictures_are_training_pictures(
    picture_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(picture_folder / "train" / "ant" / "3.png", picture_folder / "test" / "bee" / "copy.png")
    load(f"folder:{picture_folder}")
    assert "1 of 4 test images are training or validation images too" in caplog.text
