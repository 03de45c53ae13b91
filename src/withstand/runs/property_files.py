"""Robustness of test images as a benchmark for verifiers of networks: ONNX, VNN-LIB and ``instances.csv``."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from withstand.core.answers import predicted
from withstand.core.folder_path import as_folder_path
from withstand.core.made import made_of
from withstand.core.norms import as_norm, norm_rule
from withstand.core.setting_rules import AT_LEAST_0, COUNT, POSITIVE, flag, settle
from withstand.core.writing import epsilon_text
from withstand.data import Dataset, batches
from withstand.models.hosted import is_onnx
from withstand.models.onnx import files_of
from withstand.properties import robustness, to_vnnlib
from withstand.runs.exporting import Network, logits_of, network_of, write_onnx
from withstand.types import DataError, RunFolderError

INSTANCES = "instances.csv"
_BATCH = 100


@dataclass(frozen=True)
class Robustness:
    """What is to be verified: that no image within epsilon of a test image has another answer.

    Attributes:
        epsilon: In [0, 1] units.
        norm: Of the ball: linf, since the inputs of a property in VNN-LIB are boxes.
        clip: Whether only images in [0, 1] count.
        count: Of how many images: the first that the network gets right.
        timeout: Seconds that ``instances.csv`` gives for each.

    Raises:
        ValueError: one is out of its range, or the norm another.
    """

    epsilon: float
    norm: float = math.inf
    clip: bool = True
    count: int = 10
    timeout: float = 60.0

    def __post_init__(self) -> None:
        settle(self, epsilon=AT_LEAST_0, norm=norm_rule, clip=flag, count=COUNT, timeout=POSITIVE)
        if not math.isinf(self.norm):
            raise ValueError(
                f"The inputs of a property in VNN-LIB are boxes, so its norm is linf, but got {self.norm:g}. "
                "Of other balls `withstand certify` and ws.certify prove what can be proven."
            )


@dataclass(frozen=True)
class ExportedProperties:
    """A benchmark that was written.

    Attributes:
        folder: Which holds ``onnx/``, ``vnnlib/`` and ``instances.csv``.
        asked: What is to be verified.
        num_properties: How many files of properties there are.
        num_wrong: How many images came before the last of these that the network gets wrong.
        network: What is said of the network's file.
    """

    folder: Path
    asked: Robustness
    num_properties: int
    num_wrong: int
    network: str

    @override
    def __str__(self) -> str:
        wrong = f", {self.num_wrong} that the network gets wrong are left out" if self.num_wrong else ""
        return (
            f"{self.network}\n{self.folder / INSTANCES}: {self.num_properties} test images within linf "
            f"{epsilon_text(self.asked.epsilon)}{wrong}"
        )


def export_properties(
    source: str | Path | nn.Module,
    out: str | Path,
    *,
    epsilon: float,
    norm: float | str = "linf",
    clip: bool = True,
    count: int = 10,
    timeout: float = 60.0,
    dataset: Any = None,
) -> ExportedProperties:
    """Writes a trained network, and robustness of test images as properties that anyone's verifier can prove.

    The folder has the form of the competitions in verification: the network in ``onnx/``, a property in
    VNN-LIB for each image in ``vnnlib/``, and ``instances.csv``, which `withstand verify --instances` takes.
    A network that came as an ONNX file is copied as it is.

    Args:
        source: As of ``export``.
        out: The folder to make.
        epsilon: In [0, 1] units.
        norm: Of the ball: linf alone, since the inputs of such properties are boxes.
        clip: Whether only images in [0, 1] count.
        count: Of how many images: the first to test on that the network gets right.
        timeout: Seconds that ``instances.csv`` gives for each.
        dataset: As of ``export``; test images are needed.

    Raises:
        ValueError: the norm is another, or a number out of its range.
        DataError: there are no test images, or the network gets none right.
        RunFolderError: there is no run, or the folder is there and not empty, or cannot be written.
        ModelError: as ``export``.
    """
    asked = Robustness(epsilon, as_norm(norm), clip, count, timeout)
    return write_properties(network_of(source, dataset), out, asked)


def write_properties(network: Network, out: str | Path, asked: Robustness) -> ExportedProperties:
    """Writes a network with properties, all or nothing.

    Args:
        network: What is to be verified.
        out: The folder to make.
        asked: Of what.

    Raises:
        WithstandError: as ``export_properties``.
    """
    folder = as_folder_path(out)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RunFolderError(f"{folder} exists and is not empty. Choose another folder, or delete it.")
    texts, num_wrong = _texts(network, asked)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as stage:
            written = Path(stage) / folder.name
            about = _write(network, written, texts, asked.timeout)
            if folder.exists():
                folder.rmdir()
            os.replace(written, folder)
    except RunFolderError:
        raise
    except OSError as error:
        raise RunFolderError(
            f"Cannot write {folder}: {error.strerror or error}. Choose another folder."
        ) from error
    return ExportedProperties(folder, asked, len(texts), num_wrong, about.replace(str(written), str(folder)))


def _write(network: Network, folder: Path, texts: dict[str, str], timeout: float) -> str:
    """Writes all files; returns what is to be said of the network's."""
    for part in ("onnx", "vnnlib"):
        (folder / part).mkdir(parents=True)
    made = made_of(network.model)
    if made is not None and is_onnx(made.name) and not made.options:
        files = files_of(Path(made.name))
        for name, content in files.items():
            (folder / "onnx" / name).write_bytes(content)
        file = next(iter(files))
        about = f"{folder / 'onnx' / file}: a copy of {made.name}"
    else:
        file = "model.onnx"
        about = str(write_onnx(network, folder / "onnx" / file))
    for name, text in texts.items():
        (folder / "vnnlib" / name).write_text(text, encoding="utf-8")
    rows = [f"onnx/{file},vnnlib/{name},{timeout:g}\n" for name in texts]
    (folder / INSTANCES).write_text("".join(rows), encoding="utf-8")
    return about


def _texts(network: Network, asked: Robustness) -> tuple[dict[str, str], int]:
    """Name of file -> property, and how many images before the last of them have another answer."""
    if not isinstance(network.data, Dataset) or not len(network.data.test):
        raise DataError(
            f"Properties are of test images, and there are none of {network.info.name} here. Say where they "
            "are: --data.root=DIR or --data.name=NAME, or dataset= in Python."
        )
    classes, digits = network.info.num_classes, len(str(len(network.data.test)))
    texts, last = {}, 0
    for index, image, label in islice(_right(network, network.data), asked.count):
        stated = robustness(
            image, label, epsilon=asked.epsilon, num_classes=classes, norm=asked.norm, clip=asked.clip
        )
        about = f"Test image {index} of {network.info.name}, of class {label}, within linf {asked.epsilon:g}."
        name = f"test-{index:0{digits}d}-linf-{epsilon_text(asked.epsilon).replace('/', '-')}.vnnlib"
        texts[name], last = to_vnnlib(replace(stated, name=about)), index
    if not texts:
        raise DataError(f"The network gets none of the test images of {network.info.name} right.")
    return texts, last + 1 - len(texts)


def _right(network: Network, dataset: Dataset) -> Iterator[tuple[int, Tensor, int]]:
    """Index, image and label of each test image that the network gets right."""
    start = 0
    for images, labels in batches(dataset.test, _BATCH):
        images, labels = images.cpu(), labels.cpu()
        right = predicted(logits_of(network.model, images)) == labels
        for place in right.nonzero().flatten().tolist():
            yield start + place, images[place], int(labels[place])
        start += len(images)
