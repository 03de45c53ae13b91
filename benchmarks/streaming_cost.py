"""What an epoch costs whose images are read from disk, beside one that has them in memory.

    python benchmarks/streaming_cost.py --out=results/benchmarks/streaming_cost.json

`cnn-small` learns 60,000 MNIST images, by `ws.fit`; and the batches of an epoch are made without any
training, which is what a faster device would wait for. All take turns. For `cold` the operating system is
asked to forget the file before each pass. Weights must be equal, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

import withstand as ws
from timing import interleaved
from withstand.data import Dataset, Split
from withstand.data.mapped import levels_of, mapped_file

_BATCH_SIZE = 128


def epoch(dataset: Dataset, folder: Path, weights: dict[str, torch.Tensor], name: str) -> None:
    """One epoch of training from the same start."""
    torch.manual_seed(0)
    model = ws.models.create("cnn-small", dataset=dataset.info)
    settings = ws.training.TrainingSettings(epochs=1, batch_size=_BATCH_SIZE, accelerator="cpu")
    with tempfile.TemporaryDirectory(dir=folder) as out:
        ws.fit(model, dataset, ws.objectives.CrossEntropy(), settings, out=out)
    weights[name] = torch.cat([weight.detach().flatten() for weight in model.parameters()])


def batches_alone(split: Split) -> None:
    """All batches of an epoch, in a random order."""
    order = ws.data.epoch_order(len(split), seed=0, epoch=0)
    for _ in ws.data.batches(split, _BATCH_SIZE, order=order):
        pass


def on_disk(folder: Path, dataset: Dataset) -> Callable[[], Dataset]:
    """Writes the images to a file, and opens it as a data set."""
    part = {"train": dataset.train, "test": dataset.test}
    for name, split in part.items():
        np.save(folder / f"{name}.npy", split.images.numpy())
    arrays = {f"{name}_images": folder / f"{name}.npy" for name in part}
    labels = {f"{name}_labels": split.labels for name, split in part.items()}
    return lambda: ws.data.as_dataset({**arrays, **labels}, name=dataset.info.name, validation_size=0)


def opened_again(file: Path, like: Split) -> Split:
    """The images of a file, of which nothing is read yet."""
    return Split(levels_of(mapped_file(file)), like.labels)


def dropped(file: Path) -> Path:
    """The file, whose content the operating system is asked to forget."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return file


def main() -> None:
    """Runs all and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often to time each, after one warm-up")
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here too")
    arguments = parser.parse_args()
    weights: dict[str, torch.Tensor] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        stored = ws.data.load("mnist", validation_size=0)
        opened = on_disk(folder, stored)
        memory = Dataset(opened().info, stored.train, stored.validation, stored.test)

        epochs: dict[str, Callable[[], object]] = {
            "memory": partial(epoch, memory, folder, weights, "memory"),
            "disk": partial(epoch, opened(), folder, weights, "disk"),
        }
        seconds = interleaved(epochs, rounds=arguments.rounds)
        del epochs  # the operating system holds on to what is mapped
        train = folder / "train.npy"
        drawn: dict[str, Callable[[], object]] = {
            "memory": partial(batches_alone, memory.train),
            "disk": lambda: batches_alone(opened_again(train, memory.train)),
            "cold": lambda: batches_alone(opened_again(dropped(train), memory.train)),
        }
        seconds_of_batches = interleaved(drawn, rounds=5 * arguments.rounds)
        load = os.getloadavg()[0]
    result = {
        "command": " ".join(["python", "benchmarks/streaming_cost.py", *sys.argv[1:]]),
        "machine": {"device": "cpu", "threads": torch.get_num_threads(), "torch": torch.__version__},
        "load_at_the_end": load,
        "rounds": arguments.rounds,
        "images": len(memory.train),
        "seconds_of_an_epoch": seconds,
        "of_memory": {name: value / seconds["memory"] for name, value in seconds.items()},
        "seconds_of_its_batches_alone": seconds_of_batches,
        "weights_are_equal": all(torch.equal(value, weights["memory"]) for value in weights.values()),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
