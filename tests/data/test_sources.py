"""The same data by every door: arrays, data sets of others, files, functions and names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data import Dataset as TorchDataset

import withstand as ws
from withstand.data import as_dataset, from_arrays, load
from withstand.types import DataError

Array = NDArray[Any]
_DRAW = np.random.default_rng(0)
TRAIN, TEST = (_DRAW.integers(0, 256, (number, 3, 8, 6), np.uint8) for number in (30, 12))
# In the order of the classes, as folders list them.
TRAIN_LABELS, TEST_LABELS = (np.sort(np.arange(len(images)) % 3) for images in (TRAIN, TEST))
NAMED = {"train": (TRAIN, TRAIN_LABELS), "test": (TEST, TEST_LABELS)}
PAIR = (NAMED["train"], NAMED["test"])


class Items(TorchDataset[Any]):
    """A map-style data set of the user's, with a transform."""

    def __init__(self, part: str, transform: Callable[[Array], Any]) -> None:
        self.images, self.labels = NAMED[part]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.images[index]), int(self.labels[index])


class Stream(IterableDataset[Any]):
    def __init__(self, part: str) -> None:
        self.part = part

    def __iter__(self) -> Iterator[Any]:
        return zip(*NAMED[self.part], strict=True)


def picture(image: Array) -> Image.Image:
    return Image.fromarray(image.transpose(1, 2, 0))


def floats(image: Array) -> torch.Tensor:
    """As ``ToTensor`` has it."""
    return torch.from_numpy(image).float() / 255


def items(transform: Callable[[Array], Any]) -> tuple[Items, Items]:
    return Items("train", transform), Items("test", transform)


def loaders(**options: Any) -> tuple[DataLoader[Any], ...]:
    return tuple(DataLoader(part, 7, **options) for part in items(floats))


def collated(batch: list[Any]) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": torch.stack([image for image, _ in batch]),
        "labels": torch.tensor([label for _, label in batch]),
    }


def sampled() -> tuple[DataLoader[Any], ...]:
    """Two parts of one data set."""
    every = TensorDataset(
        torch.from_numpy(np.concatenate([TRAIN, TEST])), torch.tensor([*TRAIN_LABELS, *TEST_LABELS])
    )
    parts = range(len(TRAIN)), range(len(TRAIN), len(TRAIN) + len(TEST))
    return tuple(DataLoader(every, 5, sampler=SubsetRandomSampler(part)) for part in parts)


def keras(root: Path) -> str:
    arrays: dict[str, Any] = {"x_train": TRAIN.transpose(0, 2, 3, 1), "x_test": TEST.transpose(0, 2, 3, 1)}
    np.savez(root / "keras.npz", **arrays, y_train=TRAIN_LABELS[:, None], y_test=TEST_LABELS)
    return str(root / "keras.npz")


def flat(**more: Any) -> dict[str, Any]:
    return {
        f"{part}_{kind}": array
        for part in NAMED
        for kind, array in zip(("images", "labels"), NAMED[part], strict=True)
    } | more


def npz(root: Path) -> Path:
    np.savez(root / "data.npz", **flat())
    return root / "data.npz"


def npy(root: Path) -> dict[str, Any]:
    np.save(root / "train.npy", TRAIN.astype(np.float32) / 255)
    return flat(train_images=root / "train.npy")


def memory_map(root: Path) -> Any:
    np.save(root / "last.npy", TRAIN.transpose(0, 2, 3, 1))
    return (np.load(root / "last.npy", mmap_mode="r"), TRAIN_LABELS), NAMED["test"]


def function(root: Path) -> str:
    npz(root)
    (root / "mine.py").write_text(
        "from pathlib import Path\n\nimport numpy as np\n\n\n"
        "def make():\n    return dict(np.load(Path(__file__).with_name('data.npz')))\n"
    )
    return f"{root / 'mine.py'}:make"


def folder(root: Path) -> str:
    for part, (images, labels) in NAMED.items():
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            place = root / "pictures" / part / str(label)
            place.mkdir(parents=True, exist_ok=True)
            picture(image).save(place / f"{number:03}.png")
    return f"folder:{root / 'pictures'}"


def hub_parts() -> Any:
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["0", "1", "2"])
    features = datasets.Features(
        {"img": datasets.Image(), "fine_label": label, "id": datasets.Value("int64")}
    )
    columns = {
        part: {"img": [*map(picture, images)], "fine_label": labels, "id": range(len(labels))}
        for part, (images, labels) in NAMED.items()
    }
    return datasets.DatasetDict(
        {part: datasets.Dataset.from_dict(column, features=features) for part, column in columns.items()}
    )


def hub_saved(root: Path) -> str:
    hub_parts().save_to_disk(root / "saved")
    return f"hub:{root / 'saved'}"


DOORS: dict[str, Callable[[Path], Any]] = {
    "data set": lambda _: from_arrays(*PAIR),
    "pairs": lambda _: PAIR,
    "tensors": lambda _: tuple(
        (torch.from_numpy(images), torch.from_numpy(labels)) for images, labels in PAIR
    ),
    "splits": lambda _: tuple(ws.data.as_split(*pair) for pair in PAIR),
    "dictionary": lambda _: NAMED,
    "dictionary of arrays": lambda _: flat(),
    "torch data sets": lambda _: items(floats),
    "pictures": lambda _: items(picture),
    "channels last": lambda _: items(lambda image: image.transpose(1, 2, 0)),
    "subsets": lambda _: tuple(Subset(part, range(len(part))) for part in items(picture)),
    "loaders that shuffle": lambda _: loaders(shuffle=True),
    "loaders with workers": lambda _: loaders(num_workers=1),
    "loaders that collate": lambda _: loaders(shuffle=True, collate_fn=collated),
    "loaders of parts": lambda _: sampled(),
    "streams": lambda _: (Stream("train"), DataLoader(Stream("test"), 5)),
    "npz": npz,
    "npz of Keras": keras,
    "npy": npy,
    "memory map": memory_map,
    "function": function,
    "folder": folder,
    "folder, as a path": lambda root: Path(folder(root).removeprefix("folder:")),
    "hub": lambda _: hub_parts(),
    "hub, as arrays": lambda _: {part: of.with_format("numpy") for part, of in hub_parts().items()},
    "hub, saved": hub_saved,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of workers, which fork
@pytest.mark.parametrize("door", DOORS)
def test_same_data_are_the_same_by_every_door(door: str, tmp_path: Path) -> None:
    dataset = as_dataset(DOORS[door](tmp_path))
    expected = from_arrays(*PAIR)
    assert dataset.fingerprint == expected.fingerprint
    assert (dataset.info.mean, dataset.info.std) == (expected.info.mean, expected.info.std)
    assert dataset.info.class_names == ("0", "1", "2")


@pytest.mark.parametrize("door", ["npz", "function", "hub, saved"])
def test_named_data_are_loaded_with_the_sizes_that_are_asked_for(door: str, tmp_path: Path) -> None:
    name = str(DOORS[door](tmp_path))
    dataset = load(name, validation_size=4, train_size=10)
    assert dataset.info.name == name
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (10, 4, 12)
    assert ws.data.info(name) == dataset.info


def test_part_to_validate_on_is_not_tested_on(tmp_path: Path) -> None:
    held = (TRAIN[:5], TRAIN_LABELS[:5])
    dataset = as_dataset({**NAMED, "val": held})
    assert torch.equal(dataset.validation.images, torch.from_numpy(TRAIN[:5]))
    assert (len(dataset.train), len(dataset.test)) == (30, 12)
    np.savez(tmp_path / "three.npz", **flat(val_images=held[0], val_labels=held[1]))
    assert len(load(str(tmp_path / "three.npz")).validation) == 5
    with pytest.raises(DataError, match=r"validate on already\. Leave out validation_size"):
        load(str(tmp_path / "three.npz"), validation_size=3)


def test_data_in_one_part_are_split_alike_each_time_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    first, again = (as_dataset(NAMED["train"], seed=seed) for seed in (0, 1))
    assert "6 of 30 images, of each class its share, are set aside to test on" in caplog.text
    assert torch.equal(first.test.images, again.test.images)
    assert first.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    parts = (first.train, first.validation, first.test)
    assert {bytes(image) for part in parts for image in part.images.numpy()} == {
        bytes(image) for image in TRAIN
    }
    assert sum(map(len, parts)) == len(TRAIN)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            (Items("train", lambda image: np.roll(image, np.random.randint(9))), NAMED["test"]),
            "train images: an item is another image each time",
        ),
        (
            (
                DataLoader(Items("train", floats), sampler=WeightedRandomSampler([1.0] * 30, 30)),
                NAMED["test"],
            ),
            "the WeightedRandomSampler of the DataLoader is not used",
        ),
        ({**NAMED, "extra": NAMED["test"]}, "Not read: extra"),
        ({"train": NAMED["train"], "valid": NAMED["test"]}, "no part to test on, so the one to validate on"),
        (((TRAIN[:, 0], TRAIN_LABELS), (TEST[:, 0], TEST_LABELS)), "taken to be grey, of 8 x 6 pixels"),
    ],
    ids=["random items", "sampler", "other parts", "no test part", "grey"],
)
def test_what_is_guessed_or_left_out_is_said(
    source: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        once, twice = as_dataset(source), as_dataset(source)
    assert said in caplog.text
    assert once.fingerprint == twice.fingerprint


def test_reading_a_data_set_leaves_random_states_alone() -> None:
    source = (Items("train", lambda image: np.roll(image, np.random.randint(9))), NAMED["test"])
    np.random.seed(5)
    torch.manual_seed(5)
    expected = np.random.randint(1000), float(torch.rand(()))
    np.random.seed(5)
    torch.manual_seed(5)
    as_dataset(source)
    assert (np.random.randint(1000), float(torch.rand(()))) == expected


def test_columns_of_named_parts_are_guessed_and_said_or_named(caplog: pytest.LogCaptureFixture) -> None:
    parts = hub_parts()
    as_dataset(parts)
    assert "images are taken from 'img', the labels from 'fine_label'. id is not read" in caplog.text
    caplog.clear()
    dataset = as_dataset(parts, columns=("img", "id"), class_names=[*map(str, range(30))])
    assert not caplog.records or "taken from" not in caplog.text
    assert dataset.info.num_classes == 30
    with pytest.raises(DataError, match=r"have no 'image'\. There are: img, fine_label, id"):
        as_dataset(parts, columns=("image", "id"))
    with pytest.raises(DataError, match=r"Name both: .*as_dataset\(source, columns"):
        as_dataset(parts.rename_column("fine_label", "what"))


def test_pictures_of_several_sizes_are_brought_to_one() -> None:
    source = items(lambda image: picture(image[:, : 8 - image[0, 0, 0] % 2]))
    with pytest.raises(DataError, match=r"x 7 pixels|x 8 pixels"):
        as_dataset(source)
    assert as_dataset(source, size=4).info.shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        (
            items(lambda image: (floats(image) - 0.5) / 0.5),
            "do not normalise: that is a layer inside the model",
        ),
        (items(lambda image: floats(image) * 255), r"Divide levels of 0 … 255 by 255"),
        (
            items(lambda image: floats(image)[:, : int(image[0, 0, 0]) % 5 + 1]),
            "must be of one shape and type",
        ),
        (({"train_images": TRAIN}), "need train images and labels, but have images alone"),
        ({"a": 1}, "no part of a name that is known. Not read: a. Parts are called train"),
        ("nowhere.npz", "There is no file nowhere.npz; give its path"),
        (
            "nowhere.py:make",
            "There is no file nowhere.py; give the path of the Python file that makes the data",
        ),
        ("hub:./nowhere", "There is no folder nowhere"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_the_remedy(source: Any, remedy: str) -> None:
    with pytest.raises(DataError, match=remedy) as caught:
        as_dataset(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", [3, None, (1, 2, 3), np.zeros((3, 3))])
def test_what_is_no_data_is_refused_with_all_that_is(source: Any) -> None:
    with pytest.raises(TypeError, match=r"Expected data as a pair of train and test.*hub:OWNER/NAME"):
        as_dataset(source)


def test_function_that_fails_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def make():\n    raise KeyError('no\\nthing')\n")
    with pytest.raises(DataError, match="could not be made, KeyError") as caught:
        load(f"{tmp_path / 'bad.py'}:make")
    assert "\n" not in str(caught.value)


# -- fit and evaluate take them directly ------------------------------------------------------------


@pytest.fixture
def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 6, 3))


def test_fit_and_evaluate_take_data_as_they_are(model: torch.nn.Module, tmp_path: Path) -> None:
    settings = ws.training.TrainingSettings(epochs=1, batch_size=8, accelerator="cpu")
    ws.fit(model, items(floats), ws.objectives.CrossEntropy(), settings, out=tmp_path / "run")
    by_loader = ws.evaluate(model, DataLoader(Items("test", floats), 5, shuffle=True))
    by_dataset: Any = ws.evaluate(model, from_arrays(*PAIR))
    assert by_loader.rows.equals(by_dataset.rows)


def test_test_images_alone_have_the_classes_of_the_model(
    model: torch.nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    evaluation = ws.evaluate(model, (TEST[:8], TEST_LABELS[:8]))  # none of class 2
    assert evaluation.results.num_examples == 8
    assert "all of it is tested on. Where the model was trained on some of it" in caplog.text


def test_data_set_is_taken_as_it_is() -> None:
    dataset = from_arrays(*PAIR)
    assert as_dataset(dataset) is dataset


# -- in the units of the data -----------------------------------------------------------------------

TABLE, RANGE, FEATURES = _DRAW.random((30, 4)).astype(np.float32) * 100, (0.0, 100.0), ("a", "b", "c", "d")
STATED: dict[str, Any] = {"input_range": np.array(RANGE), "feature_names": np.array(FEATURES)}


@pytest.mark.parametrize("kind", ["pair", "dictionary", "npz", "npy", "items", "function"])
def test_values_with_a_range_are_the_same_data_by_every_door(kind: str, tmp_path: Path) -> None:
    expected = from_arrays((TABLE, TRAIN_LABELS), input_range=RANGE, feature_names=FEATURES)
    part: dict[str, Any] = {"images": TABLE, "labels": TRAIN_LABELS}
    np.savez(tmp_path / "table.npz", **part, **STATED)
    np.save(tmp_path / "table.npy", TABLE)
    (tmp_path / "table.py").write_text(
        f"import numpy as np\n\n\ndef make():\n    return dict(np.load({str(tmp_path / 'table.npz')!r}))\n"
    )
    told: dict[str, Any] = {"input_range": RANGE, "feature_names": FEATURES}
    made = {
        "pair": lambda: as_dataset((TABLE, TRAIN_LABELS), **told),
        "dictionary": lambda: as_dataset(part | STATED),
        "npz": lambda: as_dataset(tmp_path / "table.npz"),
        "npy": lambda: as_dataset(part | {"images": tmp_path / "table.npy"} | STATED),
        "items": lambda: as_dataset(Rows(), **told),
        "function": lambda: load(f"{tmp_path / 'table.py'}:make"),
    }[kind]()
    assert made.fingerprint == expected.fingerprint
    assert (made.info.input_range, made.info.feature_names) == (
        expected.info.input_range,
        expected.info.feature_names,
    )


class Rows(TorchDataset[Any]):
    """The table, a row an item."""

    def __len__(self) -> int:
        return len(TABLE)

    def __getitem__(self, index: int) -> tuple[Array, int]:
        return TABLE[index], int(TRAIN_LABELS[index])


def test_an_argument_counts_more_than_what_a_dictionary_says() -> None:
    source = {"images": TABLE, "labels": TRAIN_LABELS, "input_range": (0, 1)}
    assert as_dataset(source, input_range=RANGE).info.input_range == ((0.0,) * 4, (100.0,) * 4)


@pytest.mark.parametrize("source", [from_arrays(*PAIR), "digits"])
def test_options_that_a_whole_data_set_cannot_follow_are_refused(source: Any) -> None:
    with pytest.raises(DataError, match="whole data set already, so input_range and columns cannot be asked"):
        as_dataset(source, input_range=RANGE, columns=("a", "b"))


def test_arrays_that_are_named_twice_are_an_error() -> None:
    with pytest.raises(DataError, match="train images twice, the second time as 'x_train'"):
        as_dataset(flat(x_train=TEST))


def test_a_function_that_gives_no_data_is_an_error_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text("def make():\n    return 3\n")
    with pytest.raises(DataError, match=r"none.py:make gives no data. Expected data as"):
        load(f"{tmp_path / 'none.py'}:make")


def test_labels_that_are_ids_are_refused_before_they_are_counted() -> None:
    with pytest.raises(DataError, match="Where labels are ids"):
        from_arrays((TEST, TEST_LABELS * 10**12))
