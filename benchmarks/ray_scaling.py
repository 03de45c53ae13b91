"""How many more trials of a sweep two workers of Ray run than one, each with one thread.

    OMP_NUM_THREADS=1 python benchmarks/ray_scaling.py --out=results/benchmarks/ray_scaling.json

Trials of ``digits-adversarial`` that differ in their seed, each trained and evaluated as a sweep does it, on
a local cluster of one CPU and on one of two; from the first trial's submission to the last one's end. A
cluster has run one short trial a worker before, so that its processes are there. The ratio needs two cores
that nothing else works on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from withstand.core.environment import git_commit
from withstand.integrations.ray_cluster import connected, require_ray
from withstand.recipes.parsing import find_recipe, parse_recipe
from withstand.runs.ray_sweep import Needs, attempts_on_ray
from withstand.runs.sweeping import Trial

_RECIPE = "digits-adversarial"


def trials(num: int, epochs: int, folder: Path) -> list[Trial]:
    """So many trials, each with a seed of its own."""
    made = []
    for seed in range(num):
        keys = [f"--seed={seed}", f"--training.epochs={epochs}"]
        recipe = parse_recipe(find_recipe(_RECIPE), keys).text
        made.append(Trial(f"seed={seed}", recipe, "", str(folder / f"seed={seed}")))
    return made


def seconds_of(every: list[Trial]) -> float:
    """How long they take, all of which must end well."""
    begun = time.perf_counter()
    results = list(attempts_on_ray(every, Needs()))
    assert [result.ended for result in results] == ["done"] * len(every), [r.words for r in results]
    return time.perf_counter() - begun


def main() -> None:
    """Runs both and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here too")
    arguments = parser.parse_args()
    seconds: dict[str, float] = {}
    for workers in (1, 2):
        with TemporaryDirectory() as folder, connected(num_cpus=workers):
            seconds_of(trials(workers, 1, Path(folder) / "before"))
            seconds[f"{workers}"] = seconds_of(trials(arguments.trials, arguments.epochs, Path(folder)))
    result = {
        "command": " ".join(["python", "benchmarks/ray_scaling.py", *sys.argv[1:]]),
        "machine": {"device": "cpu", "torch": torch.__version__, "ray": require_ray().__version__},
        "commit": git_commit(),
        "recipe": _RECIPE,
        "trials": arguments.trials,
        "epochs": arguments.epochs,
        "seconds_by_workers": seconds,
        "times_throughput": seconds["1"] / seconds["2"],
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
