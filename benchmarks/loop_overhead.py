"""What the training loop costs beside a bare loop of PyTorch, and its checkpoints beside an epoch.

    WITHSTAND_DATA=PATH python benchmarks/loop_overhead.py --out=results/benchmarks/loop_overhead.json

Both train ``cnn-small`` on MNIST (random images of its shape where it is not there) by Adam and plain
cross-entropy in batches of 128, on one thread, from images in uint8 in the order of an epoch. They take turns
at every step; the ratio is of the medians of what the steps of each take of the process's own time, which
others on the machine leave alone, and its range that of ten parts of the run. A checkpoint is timed by the
clock, with its writing to disk, beside an epoch of so many steps as MNIST has.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from typing_extensions import override

import withstand as ws
from withstand.core.dataset_info import DatasetInfo
from withstand.core.environment import git_commit
from withstand.core.run_folder import RunFolder
from withstand.data import Dataset, Split, epoch_order
from withstand.models import create
from withstand.training import Observer, TrainingSettings
from withstand.training.checkpoint import Row
from withstand.training.loop import Training
from withstand.types import DataError

_BATCH, _LR = 128, 1e-3
_WARM_UP = 20  # steps


def mnist(num: int) -> tuple[Dataset, str]:
    """So many training images and some of validation; random ones of that shape where there are none."""
    try:
        data, source = ws.data.load("mnist"), "MNIST"
        return Dataset(data.info, data.train.subset(torch.arange(num)), data.validation, data.test), source
    except DataError:
        names = tuple(str(digit) for digit in range(10))
        parts = [Split(*random_images(size)) for size in (num, 500, 10)]
        return Dataset(DatasetInfo("random", (1, 28, 28), names, (0.5,), (0.3,)), *parts), "random images"


def random_images(num: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images in uint8 of the shape of MNIST, and labels."""
    generator = torch.Generator().manual_seed(num)
    images = torch.randint(0, 256, (num, 1, 28, 28), generator=generator)
    return images.to(torch.uint8), torch.arange(num) % 10


class Bare(Observer):
    """A bare loop of PyTorch, which takes a step after each step of the training that it observes.

    Args:
        model: Its own.
        data: What it trains on.
    """

    def __init__(self, model: nn.Module, data: Dataset) -> None:
        self._model, self._images, self._labels = model.train(), data.train.images, data.train.labels
        self._optimizer = torch.optim.Adam(model.parameters(), lr=_LR)
        self._order = epoch_order(len(data.train), seed=1, epoch=0)
        self._number = 0
        self._left_at = time.process_time()
        self.seconds: dict[str, list[float]] = {"bare": [], "withstand": []}

    @override
    def on_step(self, done: int, total: int) -> None:
        entered_at = time.process_time()
        self._step()
        self.seconds["withstand"].append(entered_at - self._left_at)
        self.seconds["bare"].append(time.process_time() - entered_at)
        self._left_at = time.process_time()

    def _step(self) -> None:
        start = self._number * _BATCH % len(self._order)
        self._number += 1
        rows = self._order[start : start + _BATCH]
        loss = F.cross_entropy(self._model(self._images[rows].float() / 255), self._labels[rows])
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()

    @override
    def on_epoch(self, rows: Sequence[Row]) -> None:
        return


def own(data: Dataset, out: RunFolder, *observers: Observer) -> Training:
    """The training, ready to run an epoch."""
    settings = TrainingSettings(epochs=10**6, batch_size=_BATCH, accelerator="cpu", checkpoint_seconds=10**9)
    objective, model = ws.objectives.CrossEntropy(), create("cnn-small", dataset=data.info)
    return Training(model, data, objective, settings, out=out, seed=0, observers=observers)


def next_epoch(training: Training) -> None:
    """The steps of an epoch, without what follows it."""
    training._run_epoch()
    training._position.epoch += 1
    training._position.step = 0


def measured(data: Dataset, epochs: int, out: RunFolder, steps_per_epoch: int) -> dict[str, object]:
    """Medians of both, and what a checkpoint takes."""
    bare = Bare(create("cnn-small", dataset=data.info), data)
    training = own(data, out, bare)
    for _ in range(epochs):
        next_epoch(training)
    seconds = {name: values[_WARM_UP:] for name, values in bare.seconds.items()}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    size = len(seconds["bare"]) // 10
    parts = [slice(start, start + size) for start in range(0, 10 * size, size)]
    overheads = [ratio(*(seconds[name][part] for name in ("withstand", "bare"))) - 1 for part in parts]
    saves = []
    for _ in range(15):
        started = time.perf_counter()
        training._save("last.pt")
        saves.append(time.perf_counter() - started)
    return {
        "cpu_seconds_per_step": medians,
        "overhead": medians["withstand"] / medians["bare"] - 1,
        "overhead_of_parts": [min(overheads), max(overheads)],
        "checkpoint_seconds": statistics.median(saves),
        "checkpoint_share_of_an_epoch": statistics.median(saves) / medians["withstand"] / steps_per_epoch,
    }


def ratio(one: list[float], other: list[float]) -> float:
    """Of their medians."""
    return statistics.median(one) / statistics.median(other)


def profiled(data: Dataset, out: RunFolder) -> None:
    """Prints where the time of an epoch goes."""
    training = own(data, out)
    next_epoch(training)
    profile = cProfile.Profile()
    profile.runcall(next_epoch, training)
    pstats.Stats(profile).sort_stats("tottime").print_stats(60)


def main() -> None:
    """Runs all and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200, help="of an epoch")
    parser.add_argument("--profile", action="store_true", help="print where the loop's time goes instead")
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data, source = mnist(arguments.steps * _BATCH)
    with tempfile.TemporaryDirectory() as folder:
        out = RunFolder(Path(folder)).create()
        if arguments.profile:
            profiled(data, out)
            return
        result = {
            "command": " ".join(["python", "benchmarks/loop_overhead.py", *sys.argv[1:]]),
            "machine": {"device": "cpu", "threads": torch.get_num_threads(), "torch": torch.__version__},
            "commit": git_commit(),
            "seed": 0,
            "data": source,
            "epochs": arguments.epochs,
            **measured(data, arguments.epochs, out, steps_per_epoch=-(-60_000 // _BATCH)),
        }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
