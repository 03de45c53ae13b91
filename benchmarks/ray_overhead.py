"""What it costs to schedule the trials of a sweep on Ray, beside empty tasks of Ray itself.

    python benchmarks/ray_overhead.py --out=results/benchmarks/ray_overhead.json

The trials do nothing, on a local cluster of two workers, but go through all that schedules a sweep: each is
one task with its recipe, whose result comes back with what was logged. With ASHA each also reports three
epochs. The alternatives take turns after a warm-up; medians of all rounds, in seconds. Beside them: what it
takes to start such a cluster, and to read a trial's recipe, once before anything runs and once in a worker.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from timing import interleaved
from withstand.integrations.ray_cluster import connected, require_ray
from withstand.recipes.parsing import find_recipe, parse_recipe
from withstand.runs.early_stopping import Asha, Watch
from withstand.runs.ray_sweep import Needs, attempts_on_ray
from withstand.runs.sweeping import Result, Trial
from withstand.training.checkpoint import ACCURACY, Row

_WORKERS = 2
_EPOCHS = 3
_RECIPE = "digits-adversarial"


def nothing(trial: Trial, *, watch: Watch | None) -> Result:
    """A trial that is done at once; with ASHA its epochs all score alike, so that none is stopped."""
    rows: list[Row] = []
    for epoch in range(1, _EPOCHS + 1) if watch is not None else ():
        rows.append({"epoch": epoch, ACCURACY: 0.5, "collapsed": 0, "note": ""})
        assert watch is not None
        watch.on_epoch(rows)
    return Result(trial, "done", "nothing", 0.0)


def empty() -> None:
    """What a task of Ray is timed with."""


def trials(num: int, asha: Asha | None, recipe: str, folder: str) -> Callable[[], object]:
    """So many trials, to be timed."""
    every = [Trial(f"trial-{number}", recipe, "", folder) for number in range(num)]

    def run() -> None:
        results = list(attempts_on_ray(every, Needs(), asha=asha, most_epochs=_EPOCHS + 1, work=nothing))
        assert [result.ended for result in results] == ["done"] * num

    return run


def empty_tasks(num: int) -> Callable[[], object]:
    """So many empty tasks of Ray, to be timed."""
    ray = require_ray()
    task = ray.remote(num_cpus=1)(empty)
    return lambda: ray.get([task.remote() for _ in range(num)])


def main() -> None:
    """Runs all and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often to time each, after one warm-up")
    parser.add_argument("--nums", type=int, nargs="+", default=[10, 100, 1000], help="how many trials")
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here too")
    arguments = parser.parse_args()
    recipe = parse_recipe(find_recipe(_RECIPE)).text
    reading = {"recipe": lambda: parse_recipe(find_recipe(_RECIPE), ["--training.epochs=3"])}
    recipe_seconds = interleaved(reading, rounds=20)["recipe"]
    begun = time.perf_counter()
    with TemporaryDirectory() as folder, connected(num_cpus=_WORKERS):
        start = time.perf_counter() - begun
        rows = []
        for num in arguments.nums:
            pieces = {
                "empty_task": empty_tasks(num),
                "trial": trials(num, None, recipe, folder),
                "trial_with_asha": trials(num, Asha(), recipe, folder),
            }
            seconds = interleaved(pieces, rounds=arguments.rounds)
            each = {name: value / num for name, value in seconds.items()}
            rows.append({"name": str(num), "seconds": seconds, "seconds_each": each})
    result = {
        "command": " ".join(["python", "benchmarks/ray_overhead.py", *sys.argv[1:]]),
        "machine": {"device": "cpu", "torch": torch.__version__, "ray": require_ray().__version__},
        "workers": _WORKERS,
        "rounds": arguments.rounds,
        "epochs_reported": _EPOCHS,
        "cluster_start_seconds": start,
        "recipe_seconds": recipe_seconds,
        "trials": rows,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
