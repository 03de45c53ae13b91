"""Data sets by name, and whatever else people have theirs in.

The 8 x 8 handwritten digits come inside scikit-learn: data without any download.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike

from withstand.core.dataset_info import KNOWN_DATASETS, DatasetInfo
from withstand.core.setting_rules import SEED, Whole
from withstand.core.suggest import nearest
from withstand.core.user_code import load_function
from withstand.data.cifar import CIFAR10, CIFAR100, read_cifar
from withstand.data.cifar10_jpeg import absent_jpegs, read_cifar10_jpeg
from withstand.data.folder import ImageFolder, list_folder
from withstand.data.foreign import Columns
from withstand.data.idx import absent_idx, read_idx
from withstand.data.locations import data_root
from withstand.data.partition import PARTITIONS, PartitionName
from withstand.data.plausible import copies, darkness, missing_classes, tell
from withstand.data.sources import FACTS, Alone, load_from_hub, read_npz, read_source
from withstand.data.split import Dataset, Parts, Split
from withstand.types import DataError

NUM_TEST = 360
# What the test data are never depends on a user's seed.
_TEST_SEED = 20_200_331
_MAX_LEVEL = 16


def read_digits(info: DatasetInfo, root: Path) -> Parts:
    """The 1,797 digits: 1,437 to train on, 360 to test on, always the same ones.

    Args:
        info: The entry of ``digits``.
        root: Ignored; scikit-learn brings the data.

    Returns:
        Both parts, in scikit-learn's order; levels 0 … 16 are scaled to 0 … 255.
    """
    # scikit-learn takes a second to import, and no other data set needs it.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    levels = torch.tensor(bunch.images, dtype=torch.float64)
    images = (levels * 255 / _MAX_LEVEL).round().to(torch.uint8).reshape(-1, *info.shape)
    every = Split(images, torch.tensor(bunch.target, dtype=torch.int64))
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(_TEST_SEED))
    test, train = order[:NUM_TEST], order[NUM_TEST:]
    return Parts(every.subset(train.sort().values), every.subset(test.sort().values))


READERS: dict[str, Callable[[DatasetInfo, Path], Parts]] = {
    "digits": read_digits,
    "mnist": partial(read_idx, folder="MNIST/raw"),
    "fashion-mnist": partial(read_idx, folder="FashionMNIST/raw"),
    "cifar10": partial(read_cifar, files=CIFAR10),
    "cifar100": partial(read_cifar, files=CIFAR100),
    "cifar10-jpeg": read_cifar10_jpeg,
}

_ABSENT: dict[str, Callable[[Path], Sequence[str]]] = {
    "digits": lambda _: (),  # they come with scikit-learn
    "mnist": partial(absent_idx, folder="MNIST/raw"),
    "fashion-mnist": partial(absent_idx, folder="FashionMNIST/raw"),
    "cifar10": CIFAR10.absent,
    "cifar100": CIFAR100.absent,
    "cifar10-jpeg": absent_jpegs,
}

_FOLDER, _HUB, _NPZ = "folder:", "hub:", ".npz"
NAMES = (*READERS, f"{_FOLDER}PATH", f"PATH{_NPZ}", "FILE.py:FUNCTION", f"{_HUB}OWNER/NAME")
_FUNCTION = re.compile(r"(?:.+\.py|[A-Za-z_][\w.]*):[A-Za-z_]\w*")


def as_dataset(  # noqa: PLR0913 - each says another thing of the data
    source: Any,
    *,
    name: str | None = None,
    class_names: Sequence[str] | None = None,
    input_range: Sequence[float | ArrayLike] | None = None,
    feature_names: Sequence[str] = (),
    columns: tuple[str, str] | None = None,
    size: int | None = None,
    validation_size: int | None = None,
    seed: int = 0,
    alone: Alone = "split",
) -> Dataset:
    """A data set of what you have: ``fit`` and ``evaluate`` call it, so that they take all of these directly.

    What is guessed is logged. Data are read once and held in memory. What stays on disk, and is read batch by
    batch: arrays of ``numpy.memmap`` and ``.npy`` files named in a dictionary, always; pictures, ``.npz`` and
    data sets of others that are larger than ``WITHSTAND_MEMORY`` GiB, by default half of the memory.

    Args:
        source: A ``Dataset``, as it is. A name, as ``load`` takes it. A part: a pair (images, labels) of
            arrays, tensors or lists; a torch ``Dataset`` or ``DataLoader``; a Hugging Face ``Dataset``. A
            pair (train, test) of parts. A dictionary of parts, such as a Hugging Face ``DatasetDict``, by
            ``train``, ``validation`` and ``test``; or of arrays by ``train_images``, ``train_labels``,
            ``test_images``, ``test_labels``, by ``x_train``, ``y_train``, …, or by ``images``, ``labels``;
            ``class_names``, ``input_range`` and ``feature_names`` may be among its keys, too.
            Items are read in the order of the data set, each once, even of a ``DataLoader`` that shuffles;
            what they draw at random is drawn once, from a fixed seed.
        name: What reports call the data.
        class_names: One name a class, in label order; by default what the source tells, else numbers.
        input_range: ``(low, high)``, each a number or one number a feature or channel, in the units of the
            data, which are scaled to [0, 1]; see ``from_arrays``.
        feature_names: One name a feature (of vectors) or channel.
        columns: What holds image and label in items with named parts; guessed where None.
        size: Side in pixels that pictures are resized and cropped to.
        validation_size: How many training examples validate, where no part is for that; by default a
            tenth, at most 5000.
        seed: Chooses them.
        alone: What becomes of one part alone: ``split`` sets a fifth aside to test on, of each class its
            share and always the same one; ``test`` tests on all of it.

    Raises:
        TypeError: it is none of these.
        DataError: images are outside [0, 1] or their range, labels are not integers from 0, something cannot
            be read, or an option is of no use for data of this kind.
    """
    facts = dict(
        zip(FACTS, (class_names, input_range, feature_names if len(feature_names) else None), strict=True)
    )
    facts = {key: value for key, value in facts.items() if value is not None}
    of_reading = {"columns": columns, "size": size, "validation_size": validation_size}
    is_named = False  # by its name, again
    if isinstance(source, str | Path):
        text = f"{_FOLDER}{source}" if isinstance(source, Path) and source.is_dir() else str(source)
        name = name or text
        if is_foreign(text):
            source = _opened(text)
            is_named = not isinstance(source, Dataset) and not facts and columns is None
        else:
            source = load(text, size=size, validation_size=validation_size, seed=seed)
            of_reading = {"columns": columns}
    if isinstance(source, Dataset):
        about, no_name = source.info, {key: value for key, value in facts.items() if key != "class_names"}
        if unused := [key for key, value in {**no_name, **of_reading}.items() if value is not None]:
            raise DataError(
                f"{about.name} is a whole data set already, so {' and '.join(unused)} cannot be asked of it. "
                "Say so where it is made."
            )
        named = replace(about, name=name or about.name, class_names=class_names or about.class_names)
        return source if named == about else replace(source, info=named)
    dataset = read_source(
        source,
        name=name or "arrays",
        columns=Columns(*columns or ()),
        size=size,
        validation_size=validation_size,
        seed=seed,
        alone=alone,
        facts=facts,
    )
    return dataset.loaded_by(_recipe_data(text, None, size, validation_size, seed)) if is_named else dataset


def load(
    name: str,
    *,
    root: str | Path | None = None,
    size: int | None = None,
    validation_size: int | None = None,
    train_size: int | None = None,
    partition: PartitionName = "seeded",
    seed: int = 0,
) -> Dataset:
    """Reads a data set and takes validation data out of its training data.

    Args:
        name: ``digits``, ``mnist``, ``fashion-mnist``, ``cifar10``, ``cifar100``, ``cifar10-jpeg``;
            ``folder:PATH`` for a folder of pictures; ``PATH.npz``; ``file.py:function``, which is called and
            gives what ``as_dataset`` takes; ``hub:OWNER/NAME`` or ``hub:./FOLDER`` of Hugging Face.
        root: The data root; by default ``WITHSTAND_DATA``, else ``./data``.
        size: Side in pixels that pictures are resized and cropped to.
        validation_size: How many examples validate; by default a tenth of the training data,
            at most 5000, and 10,000 in ``kernel-reg``. Data with a part for that need none.
        train_size: How many of the others train; by default all.
        partition: How examples are chosen: ``seeded`` as ``partition`` does it, ``kernel-reg`` as
            published in arXiv 1810.00363 (``published_partition``).
        seed: Chooses which examples validate and train; the same ones on any machine.

    Returns:
        The data set, on the CPU. Its test data are the same whatever the options.

    Raises:
        DataError: a name is unknown, files are missing or damaged, or a size does not fit.
        TypeError: a size or the seed is no number.
        ValueError: one is not whole, or the seed is out of its range.
    """
    if partition not in PARTITIONS:
        raise DataError(f"There is no partition {partition!r}; {nearest(partition, PARTITIONS)}")
    seed = (SEED if partition == "seeded" else Whole())("seed", seed)
    divide = partial(PARTITIONS[partition], train_size=train_size, seed=seed)
    if is_foreign(name):
        given = _foreign(name, size)
        if not len(given.validation):
            parts = divide(given.train, validation_size=validation_size)
        elif validation_size is None:
            parts = divide(given.train, validation_size=0)[0], given.validation
        else:
            raise DataError(f"{name} has a part to validate on already. Leave out validation_size.")
        return Dataset(given.info, *parts, given.test).loaded_by(
            _recipe_data(name, root, size, validation_size, seed, train_size, partition)
        )
    folder = _image_folder(name, size)
    if folder is not None:
        about, read = folder.info(), folder.read()
    else:
        about = KNOWN_DATASETS[name]
        read = READERS[name](about, data_root(root))
    dataset = Dataset(about, *divide(read.train, validation_size=validation_size), read.test)
    tell(dataset, missing_classes, *(() if folder is None else (darkness, copies)))
    return dataset.loaded_by(_recipe_data(name, root, size, validation_size, seed, train_size, partition))


def _recipe_data(
    name: str,
    root: str | Path | None,
    size: int | None,
    validation_size: int | None,
    seed: int,
    train_size: int | None = None,
    partition: PartitionName = "seeded",
) -> dict[str, Any]:
    """What a recipe's ``data`` holds of such data, by which they are found from other folders, too."""
    place, colon, last = name.rpartition(":")
    if name.endswith(_NPZ) or is_folder(name) or (place == "hub" and last.startswith((".", "~"))):
        prefix = next((one for one in (_FOLDER, _HUB) if name.startswith(one)), "")
        name = f"{prefix}{_whole(name.removeprefix(prefix))}"
    elif place.endswith(".py"):
        name = f"{_whole(place)}{colon}{last}"
    chosen = {"validation_size": validation_size, "train_size": train_size, "partition": partition}
    root = None if root is None else str(Path(root).resolve())
    return {"name": name, "root": root, "size": size, **chosen, "seed": seed}


def _whole(path: str) -> Path:
    return Path(path).expanduser().resolve()


def info(name: str, *, root: str | Path | None = None, size: int | None = None) -> DatasetInfo:
    """What a model needs to know of a data set; needs no files of those with a name of their own.

    Args:
        name: As for ``load``.
        root: The data root; taken so that both functions have the same arguments, not read.
        size: As for ``load``.

    Raises:
        DataError: the name is unknown, or what it names cannot be read.
    """
    if is_foreign(name):
        return _foreign(name, size).info
    folder = _image_folder(name, size)
    return KNOWN_DATASETS[name] if folder is None else folder.info()


def is_present(name: str, root: Path) -> bool:
    """Whether ``load`` would find the files of a data set; they are not read.

    Args:
        name: A data set with a name of its own, or ``folder:PATH``, which is never there by name.
        root: The data root.
    """
    return name in _ABSENT and not _ABSENT[name](root)


def is_folder(name: str) -> bool:
    """Whether a name is that of a folder of pictures."""
    return name.startswith(_FOLDER) and name != _FOLDER


def takes_size(name: str) -> bool:
    """Whether a name is that of pictures, which are resized."""
    return name.startswith((_FOLDER, _HUB))


def is_function(name: str) -> bool:
    """Whether a name is that of a function, which loading the data runs."""
    return not name.startswith((_FOLDER, _HUB)) and _FUNCTION.fullmatch(name) is not None


def is_place(name: str) -> bool:
    """Whether a name says where data lie, which may be another place tomorrow, rather than which they are."""
    return is_folder(name) or is_foreign(name)


def is_foreign(name: str) -> bool:
    """Whether a name is that of a ``.npz`` file, a function, or data of Hugging Face."""
    if not isinstance(name, str) or name.startswith(_FOLDER):
        return False
    return name.startswith(_HUB) or name.endswith(_NPZ) or is_function(name)


def _foreign(name: str, size: int | None) -> Dataset:
    """What such a name is of; unless it has a part to validate on, without one."""
    source = _opened(name)
    try:
        return as_dataset(
            source, name=name, size=size, validation_size=None if isinstance(source, Dataset) else 0
        )
    except TypeError as error:
        raise DataError(f"{name} gives no data. {error}") from error


def _opened(name: str) -> Any:
    """What ``read_source`` takes, of such a name."""
    if name.startswith(_HUB):
        return load_from_hub(name.removeprefix(_HUB))
    if name.endswith(_NPZ):
        return read_npz(Path(name).expanduser())
    function = load_function(name, "data set", DataError)
    try:
        made = function()
    except (Exception, SystemExit) as error:
        words = " ".join(str(error).split())
        raise DataError(f"Data set {name!r} could not be made, {type(error).__name__}: {words}") from error
    return as_dataset(made) if isinstance(made, str | Path) else made


def _image_folder(name: str, size: int | None) -> ImageFolder | None:
    """The folder that ``folder:PATH`` names, or None for the name of a known data set."""
    if not isinstance(name, str):
        hint = f"folder:{name}" if isinstance(name, Path) else "digits"
        raise DataError(f"A data set is named by a text, such as {hint!r}, but this is {name!r}.")
    if is_folder(name):
        return list_folder(Path(name.removeprefix(_FOLDER)).expanduser(), size=size)
    if name not in KNOWN_DATASETS:
        raise DataError(f"There is no data set {name!r}; {nearest(name.lower().replace('_', '-'), NAMES)}")
    if size is not None:
        raise DataError(f"Only pictures of a folder are resized, so {name} takes no size, but it is {size}.")
    return None
