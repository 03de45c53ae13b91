"""How many more images two processes of one thread each train on than one process of one thread.

    python benchmarks/process_scaling.py --out=results/benchmarks/process_scaling.json

``cnn-small`` on random images of the shape of MNIST, in batches of 128 in all: plain steps, adversarial ones
(PGD of 5 and of 20 steps), and certified ones by boxes and balls (BCP). One and two processes take turns,
each a training of its own of ``--steps`` steps; what counts is the median time of a step, by the clock, after
the first few. The ratio needs two cores that nothing else works on.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from typing_extensions import override

import withstand as ws
from forked import Job
from loop_overhead import random_images
from withstand.core.dataset_info import DatasetInfo
from withstand.core.environment import git_commit
from withstand.core.processes import is_first
from withstand.data import Dataset, Split
from withstand.models import create
from withstand.objectives import Adversarial, Certified, CrossEntropy, Objective
from withstand.training import Observer, TrainingSettings, fit
from withstand.training.checkpoint import Row

_BATCH = 128
_WARM_UP = 4  # steps
_OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "plain": CrossEntropy,
    "adversarial": lambda: Adversarial(ws.attacks.PGD(norm=math.inf, epsilon=0.1, num_steps=5)),
    "strong": lambda: Adversarial(ws.attacks.PGD(norm=math.inf, epsilon=0.1, num_steps=20)),
    "certified": lambda: Certified(norm=2, epsilon=0.5, domain="box_ball", kappa=0.5),
}


class Clock(Observer):
    """Notes when each step ends."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    @override
    def on_step(self, done: int, total: int) -> None:
        self.ended.append(time.perf_counter())

    @override
    def on_epoch(self, rows: Sequence[Row]) -> None:
        return


def train(name: str, processes: int, steps: int, to: Path) -> int:
    """Trains for some steps, and writes the seconds of a step."""
    torch.manual_seed(0)
    names = tuple(str(digit) for digit in range(10))
    parts = [Split(*random_images(size)) for size in (steps * _BATCH, 10, 10)]
    data = Dataset(DatasetInfo("random", (1, 28, 28), names, (0.5,), (0.3,)), *parts)
    clock = Clock()
    settings = TrainingSettings(epochs=1, batch_size=_BATCH, accelerator="cpu", devices=processes)
    model = create("cnn-small", dataset=data.info)
    fit(model, data, _OBJECTIVES[name](), settings, observers=[clock], progress=False)
    if is_first():
        ended = clock.ended[_WARM_UP:]
        to.write_text(str(statistics.median(b - a for a, b in pairwise(ended))))
    return 0


def seconds_of(name: str, processes: int, steps: int, folder: Path) -> float:
    """The median time of a step."""
    to = folder / "seconds"
    job = Job(partial(train, name, processes, steps, to))
    said = job.wait(600.0)
    if job.first.returncode != 0:
        raise SystemExit(said)
    return float(to.read_text())


def main() -> None:
    """Runs all and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, object] = {
        "command": " ".join(["python", "benchmarks/process_scaling.py", *sys.argv[1:]]),
        "machine": {"device": "cpu", "threads": torch.get_num_threads(), "torch": torch.__version__},
        "commit": git_commit(),
        "seed": 0,
        "batch_size": _BATCH,
        "rounds": arguments.rounds,
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in _OBJECTIVES:
            seconds: dict[int, list[float]] = {1: [], 2: []}
            for _ in range(arguments.rounds):
                for processes, values in seconds.items():
                    values.append(seconds_of(name, processes, arguments.steps, Path(folder)))
            ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
            result[name] = {
                "seconds_per_step": {
                    str(number): statistics.median(values) for number, values in seconds.items()
                },
                "times_throughput": statistics.median(ratios),
                "of_rounds": ratios,
            }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
