"""The losses of the first steps of a recipe on two processes, beside those of one.

    python benchmarks/process_twins.py mnist-bcp-small mnist-iat-small mnist-sebr-mlp --data.root=DATA \
        --out=results/benchmarks/process_twins.json

Each recipe makes its first steps on its own data: in one process of one thread, in two that share each
batch, and, to compare, in one process of two threads, which adds up in another order as well. What is
scheduled is as it will be `--progress` epochs later. Prints by how much losses differ, relative to the loss,
up to some steps: what rounding changes grows, since an attack's step goes by signs of gradients.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

import withstand as ws
from withstand.core.environment import git_commit
from withstand.core.processes import is_first
from withstand.data import Dataset
from withstand.objectives import Objective
from withstand.recipes.parsing import find_recipe, parse_recipe
from withstand.runs.run_parts import initial_model, load_data
from withstand.training.collapse import EpochMeter


class Later(Objective):
    """An objective as it is some epochs later.

    Args:
        objective: What is minimised.
        epochs: How much later.
    """

    def __init__(self, objective: Objective, epochs: float) -> None:
        super().__init__()
        self.objective, self.epochs = objective, epochs

    @override
    def forward(self, model: Any, images: Tensor, labels: Tensor, *, progress: float = 0.0) -> Any:
        return self.objective(model, images, labels, progress=progress + self.epochs)

    @override
    def prepare(self, num_data: int) -> None:
        self.objective.prepare(num_data)


def first_steps(recipe_name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Losses of the first steps, in as many processes as there are to be."""
    recipe = parse_recipe(find_recipe(recipe_name), arguments.overrides).recipe
    dataset = load_data(recipe)
    model = initial_model(recipe, dataset.info)
    size = arguments.steps * recipe.training.batch_size
    few = Dataset(
        dataset.info,
        train=dataset.train.subset(torch.arange(size)),
        validation=dataset.validation.subset(torch.arange(0)),
        test=dataset.test,
    )
    settings = replace(
        recipe.training,
        selection=None,
        rollback=None,
        plateau=None,
        early_stopping=None,
        epochs=1,
        measures=[],
        accelerator="cpu",
        devices=arguments.processes,
    )
    losses: list[Tensor] = []
    record = EpochMeter.record

    def recorded(meter: EpochMeter, step: int, loss: Tensor, terms: Mapping[str, Tensor]) -> None:
        losses.append(loss.detach().clone())
        record(meter, step, loss, terms)

    EpochMeter.record = recorded  # type: ignore[method-assign, assignment]  # the log has means alone
    ws.fit(
        model, few, Later(recipe.objective, arguments.progress), settings, seed=recipe.seed, progress=False
    )
    EpochMeter.record = record  # type: ignore[method-assign]
    return {"losses": torch.stack(losses), "batch": settings.batch_size}


def of_processes(
    processes: int, threads: int, names: list[str], options: list[str], folder: Path
) -> dict[str, dict[str, Any]]:
    """What the first steps of each recipe come to."""
    own = [f"--processes={processes}", f"--to={folder}", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    for name in names:  # each in a job of its own, since precision and devices belong to a job
        subprocess.run([sys.executable, __file__, name, *own], env=environment, check=True)
    return {name: torch.load(folder / f"{name}-{processes}.pt", weights_only=True) for name in names}


def differences(one: Tensor, other: Tensor) -> dict[str, float]:
    """Up to so many steps -> the largest difference, relative to the loss."""
    apart = (one - other).abs() / one.abs()
    return {f"{steps}": float(apart[:steps].max()) for steps in (1, 3, 10, 30, 100) if steps <= len(one)}


def main() -> None:
    """Compares, and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="+", help="names or files of recipes")
    parser.add_argument("--steps", type=int, default=50, help="of each")
    parser.add_argument("--progress", type=float, default=5.0, help="epochs done, for what is scheduled")
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here too")
    parser.add_argument("--processes", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--to", type=Path, default=None, help=argparse.SUPPRESS)
    arguments, overrides = parser.parse_known_args()
    arguments.overrides = overrides
    if arguments.processes:
        (name,) = arguments.recipes
        done = first_steps(name, arguments)
        if is_first():
            torch.save(done, arguments.to / f"{name}-{arguments.processes}.pt")
        return
    options = [f"--steps={arguments.steps}", f"--progress={arguments.progress}", *arguments.overrides]
    with tempfile.TemporaryDirectory() as folder:
        one, two, threads = (
            of_processes(*how, arguments.recipes, options, Path(folder)) for how in ((1, 1), (2, 1), (1, 2))
        )
    rows = [
        {
            "recipe": name,
            "batch_size": one[name]["batch"],
            "first_loss": float(one[name]["losses"][0]),
            "last_loss": float(one[name]["losses"][-1]),
            "two_processes": differences(one[name]["losses"], two[name]["losses"]),
            "two_threads": differences(one[name]["losses"], threads[name]["losses"]),
        }
        for name in arguments.recipes
    ]
    command = " ".join(["python", "benchmarks/process_twins.py", *sys.argv[1:]])
    about = {"command": command, "git_commit": git_commit(), "torch": str(torch.__version__), "device": "cpu"}
    text = json.dumps({**about, "recipes": rows}, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
