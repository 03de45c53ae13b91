"""What people have their data in, as a data set: pairs, dictionaries, ``.npz``, others' data sets.

Here a part is what holds images with their labels: those to train on, to validate on or to test on.
"""

from __future__ import annotations

import logging
import shutil
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from withstand.core.run_folder import put_in_place
from withstand.data.arrays import are_channels_last, from_arrays
from withstand.data.foreign import Arrays, Columns, is_hub_dataset, read_items
from withstand.data.locations import cache_folder, staged
from withstand.data.mapped import is_large, mapped_file
from withstand.data.split import Dataset, Split
from withstand.types import DataError

_log = logging.getLogger(__name__)

Alone = Literal["split", "test"]
"""What becomes of data that come in one part: a fifth is split off to test on, or all are tested on."""

_KINDS = (
    "a pair of train and test, each (images, labels), a torch Dataset, a DataLoader or a Hugging Face "
    'Dataset; one of these alone; a dictionary {"train": …, "test": …}; a withstand.data.Dataset; or a name '
    'such as "digits", "folder:PATH", "data.npz", "file.py:function" or "hub:OWNER/NAME"'
)
_GUESSED = Columns()
FACTS = ("class_names", "input_range", "feature_names")
"""What a dictionary or ``.npz`` file may say of its data beside its parts."""
_PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
_NAMES = (
    "Parts are called train, validation and test; arrays train_images, train_labels, test_images and "
    "test_labels, or x_train, y_train, x_test and y_test, or images and labels; facts of them class_names, "
    "input_range and feature_names."
)
_KIND_NAMES = {"images": ("images", "x", "data"), "labels": ("labels", "y", "targets")}


def read_source(
    source: Any,
    *,
    name: str = "arrays",
    columns: Columns = _GUESSED,
    size: int | None = None,
    validation_size: int | None = None,
    seed: int = 0,
    alone: Alone = "split",
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> Dataset:
    """A data set of anything but a name; see ``as_dataset``.

    Args:
        source: As there, and so are the others.
        name: Of the data.
        columns: What holds image and label.
        size: Of pictures.
        validation_size: How many examples validate.
        seed: Chooses them.
        alone: What becomes of one part alone.
        facts: Some of ``FACTS``, which ``from_arrays`` takes; those in a dictionary count where not given.
    """
    if isinstance(source, Mapping) and (told := [key for key in source if key in FACTS]):
        facts = {**{key: source[key] for key in told}, **facts}
        source = {key: value for key, value in source.items() if key not in told}
    parts = _parts(source, alone)
    arrays = {part: _arrays(value, f"{part} images", columns, size) for part, value in parts.items()}
    known = list(dict.fromkeys(one.class_names for one in arrays.values() if one.class_names is not None))
    if "class_names" not in facts and len(known) > 1:
        raise DataError(
            f"The parts name their classes differently: {known[0]} and {known[1]}. Number them alike, or "
            "name all by class_names."
        )
    are_ordered = len(facts.get("feature_names", ())) > 0  # channels that have names are where they belong
    pairs = {
        part: (one.images if are_ordered else _channels_first(one.images, f"{part} images"), one.labels)
        for part, one in arrays.items()
    }
    return from_arrays(
        pairs.get("train"),
        pairs.get("test"),
        validation=pairs.get("validation"),
        name=name,
        validation_size=validation_size,
        seed=seed,
        **{"class_names": known[0] if known else None, **facts},
    )


# -- parts ------------------------------------------------------------------------------------------


def _parts(source: Any, alone: Alone) -> dict[str, Any]:
    """Name of a part (train, validation, test) -> what it is in."""
    if isinstance(source, Mapping):
        return _of_mapping(source, alone)
    if isinstance(source, tuple | list) and len(source) == 2 and all(map(_is_part, source)):
        return {"train": source[0], "test": source[1]}
    if _is_part(source) or (isinstance(source, tuple | list) and len(source) == 2):
        return _one(source, alone)
    raise TypeError(f"Expected data as {_KINDS}; but got a {_kind(source)}.")


def _one(part: Any, alone: Alone) -> dict[str, Any]:
    if alone == "test":
        _log.warning(
            "The data come in one part, and all of it is tested on. Where the model was trained on some of "
            "it, hand in (train, test)."
        )
    return {"train" if alone == "split" else "test": part}


def _is_part(value: Any) -> bool:
    """Whether a value holds images and their labels."""
    if isinstance(value, Split | TorchDataset | DataLoader) or is_hub_dataset(value):
        return True
    # Two rows of one array are no such pair, since labels have one number an image.
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_array, value))


def _is_array(value: Any) -> bool:
    return isinstance(value, tuple | list) or getattr(value, "ndim", 0) >= 1


def _kind(source: Any) -> str:
    if isinstance(source, tuple | list):
        kinds = ", ".join(type(item).__name__ for item in source[:4])
        return f"{type(source).__name__} of {len(source)}: {kinds}"
    return type(source).__name__


def _of_mapping(source: Mapping[str, Any], alone: Alone) -> dict[str, Any]:
    """The parts that keys name: ``train``; or ``train_images`` and ``train_labels``; ``images``."""
    parts: dict[str, Any] = {}
    pairs: dict[str, dict[str, Any]] = {}
    unread = []
    for key, value in source.items():
        said = str(key).lower().split("_")
        part = next((part for part, names in _PARTS.items() if {*names} & {*said}), "")
        kind = next((kind for kind, names in _KIND_NAMES.items() if {*names} & {*said}), "")
        if part and len(said) == 1:
            parts[part] = value
        elif kind and len(said) == (2 if part else 1):
            if kind in pairs.setdefault(part, {}):
                raise DataError(f"The data have {part} {kind} twice, the second time as {key!r}. {_NAMES}")
            pairs[part][kind] = _loaded(value)
        else:
            unread.append(str(key))
    parts |= {part: _both(part, pair) for part, pair in pairs.items()}
    if unread or not parts:
        words = f"Not read: {', '.join(unread) or 'nothing'}. {_NAMES}"
        if not parts:
            raise DataError(f"The data have no part of a name that is known. {words}")
        _log.warning(words)
    if "" in parts:
        return _one(parts.pop(""), alone) | parts
    return _with_test(parts)


def _with_test(parts: dict[str, Any]) -> dict[str, Any]:
    if "test" not in parts and "validation" in parts:
        _log.warning("The data have no part to test on, so the one to validate on is tested on.")
        parts["test"] = parts.pop("validation")
    return parts


def _both(part: str, pair: Mapping[str, Any]) -> tuple[Any, Any]:
    if len(pair) != 2:
        whole = f"{part} images and labels".strip()
        raise DataError(f"The data need {whole}, but have {', '.join(pair) or 'none'} alone.")
    return pair["images"], pair["labels"]


def _loaded(value: Any) -> Any:
    """The array of a ``.npy`` file, which stays there; anything else as it is."""
    is_file = isinstance(value, str | Path) and Path(value).suffix == ".npy"
    return mapped_file(Path(value).expanduser()) if is_file else value


# -- arrays -----------------------------------------------------------------------------------------


def _arrays(part: Any, what: str, columns: Columns, size: int | None) -> Arrays:
    if isinstance(part, TorchDataset | DataLoader) or is_hub_dataset(part):
        return read_items(part, what, columns, size)
    if size is not None:
        raise DataError(f"Only pictures are resized, and the {what} are arrays. Leave out size={size}.")
    if isinstance(part, Split):
        return Arrays(part.images, part.labels)
    if isinstance(part, Mapping):
        return Arrays(*_both("", {key: _loaded(part[key]) for key in ("images", "labels") if key in part}))
    if not (isinstance(part, tuple | list) and len(part) == 2):
        raise DataError(f"The {what} must be a pair of images and labels, but are a {_kind(part)}.")
    return Arrays(*part)


def _channels_first(images: Any, what: str) -> Any:
    """Pictures with their channels on the second axis, which is said where it is a guess."""
    if not isinstance(images, np.ndarray | Tensor):
        return images
    shape, is_levels = tuple(images.shape), str(images.dtype).endswith("uint8")
    if len(shape) == 3 and is_levels:
        _log.warning("%s of shape %s are taken to be grey, of %s x %s pixels.", what, *(shape, *shape[1:]))
        return images[:, None]
    if are_channels_last(shape):
        _log.warning(
            "%s of shape %s have their channels last; they are moved to the second axis.", what, shape
        )
        return images.movedim(-1, 1) if isinstance(images, Tensor) else np.moveaxis(images, -1, 1)
    return images


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a ``.npz`` file; one that does not fit into memory is unpacked once, and stays on disk.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise DataError(
            f"There is no file {path}; give its path, whole or from the current folder, {Path.cwd()}."
        )
    try:
        with np.load(path, allow_pickle=False) as file, zipfile.ZipFile(path) as archive:
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
            return {key: _unpacked(path, key) if is_large(sizes[key]) else file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise DataError(
            f"The file {path} cannot be read: {' '.join(str(error).split())}. Write it by numpy.savez, with "
            "arrays of numbers alone."
        ) from error


def _unpacked(path: Path, key: str) -> NDArray[Any]:
    """An array of a ``.npz`` file, in a file of its own in the cache folder."""
    about = path.stat()
    mark = sha256(f"{path.absolute()} {about.st_size} {about.st_mtime_ns} {key}".encode()).hexdigest()[:32]
    unpacked = cache_folder() / f"{path.stem}-{mark}.npy"
    if not unpacked.is_file():
        _log.warning("%s of %s does not fit into memory: unpacked once, to %s.", key, path, unpacked)
        with staged(unpacked.parent) as stage, zipfile.ZipFile(path) as archive:
            with archive.open(f"{key}.npy") as packed, (stage / unpacked.name).open("wb") as whole:
                shutil.copyfileobj(packed, whole, 1 << 20)
            put_in_place(stage / unpacked.name, unpacked)
    return mapped_file(unpacked)


def load_from_hub(name: str) -> Any:
    """A data set of Hugging Face: its repository, or a local folder.

    Raises:
        DataError: the package is not installed, or there is no such data set.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "Data of Hugging Face need the package datasets: pip install 'withstand[datasets]'."
        ) from error
    folder = Path(name).expanduser()
    if name.startswith((".", "/", "~")) and not folder.is_dir():
        raise DataError(f"There is no folder {folder}; give its path, whole or from {Path.cwd()}.")
    try:
        if any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
            return datasets.load_from_disk(str(folder))
        return datasets.load_dataset(str(folder) if folder.is_dir() else name)
    except Exception as error:  # theirs have no common class
        words = " ".join(str(error).split())[:300].rstrip(".")
        raise DataError(
            f"hub:{name} cannot be loaded, {type(error).__name__}: {words}. A "
            "data set is named hub:OWNER/NAME, or hub:./FOLDER where it lies on disk; what needs more than a "
            "name is loaded in a function of yours, file.py:function."
        ) from error
