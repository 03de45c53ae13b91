"""How far power iteration falls below guaranteed operator norms while networks are trained.

    python benchmarks/power_iteration.py --out=results/benchmarks/power_iteration.json

Certified training estimates operator norms by one power iteration a step, from below. Small nets are trained
on digits by ``Certified`` (box constraint propagation, l2) with Adam, while epsilon grows. At each of the
first 20 steps, and at every 5th after, each estimate that training used is divided by the guaranteed norm of
the same operator with the same weights. Operators whose norm is a closed form are left out. For each net this
gives the least and the median ratio:

- ``first_steps``: of the first 20 steps;
- ``ramp``: from there until epsilon has reached its end;
- ``after_ramp``: from there on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand import data, models
from withstand.core.schedules import Linear
from withstand.data import Dataset, batches, epoch_order
from withstand.objectives import Certified
from withstand.operators import GuaranteedNorms, LinearOperator, PowerIteration, Shape

EPSILON = 0.5
RAMP_EPOCHS = 4.0
FIRST_STEPS = 20
EVERY = 5


class Compared(PowerIteration):
    """Gives the estimates that training uses, and sets each beside the guaranteed norm.

    Args:
        num_iterations: Of power iteration, a step.
    """

    def __init__(self, num_iterations: int) -> None:
        super().__init__(num_iterations)
        self.guaranteed = GuaranteedNorms()
        self.is_recording = False
        self.ratios: list[float] = []

    @override
    def of(self, operator: LinearOperator, input_shape: Shape, key: str) -> Tensor:
        estimate = super().of(operator, input_shape, key)
        if self.is_recording and operator.norm(input_shape) is None:
            bound = self.guaranteed.of(operator, input_shape, key)
            self.ratios.append(float(estimate.detach().double() / bound.double()))
        return estimate


class Residual(nn.Module):
    """A convolution, two residual blocks of two convolutions, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
            for _ in range(2)
        )
        self.hidden, self.last = nn.Linear(8 * 4 * 4, 32), nn.Linear(32, 10)

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.enter(x))
        for block in self.blocks:
            x = F.relu(x + block(x))
        logits: Tensor = self.last(F.relu(self.hidden(x.flatten(1))))
        return logits


def depthwise() -> nn.Module:
    """Depthwise, pointwise and grouped convolutions."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 16, 1), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, padding=1, groups=4), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(16 * 4 * 4, 32), nn.ReLU(), nn.Linear(32, 10)),
    )


NETWORKS = {
    "mlp": lambda: models.create("mlp", dataset="digits", hidden=[100, 100]),
    "cnn-small": lambda: models.create("cnn-small", dataset="digits"),
    "cnn-small, MinMax": lambda: models.create("cnn-small", dataset="digits", activation="minmax"),
    "depthwise and grouped": depthwise,
    "residual": Residual,
}


def ratios_of(
    network: nn.Module, dataset: Dataset, num_epochs: int, *, seed: int, rate: float
) -> tuple[dict[str, object], list[float]]:
    """What the estimates of one training come to, and all of their ratios.

    Args:
        network: Is trained in place.
        dataset: Its training part is used.
        num_epochs: Of training.
        seed: Of the order of the examples.
        rate: Of Adam.
    """
    norms = Compared(num_iterations=1)
    objective = Certified(2, Linear(0.0, EPSILON, RAMP_EPOCHS))
    objective.operator_norms = norms
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    parts: dict[str, list[float]] = {"first_steps": [], "ramp": [], "after_ramp": []}
    num_operators, step, loss = 0, 0, torch.zeros(())
    for epoch in range(num_epochs):
        order = epoch_order(len(dataset.train), seed=seed, epoch=epoch)
        for images, labels in batches(dataset.train, 64, order=order):
            norms.is_recording, norms.ratios = step < FIRST_STEPS or step % EVERY == 0, []
            optimizer.zero_grad()
            loss = objective(network, images, labels, progress=float(epoch)).loss
            loss.backward()
            optimizer.step()
            late = "after_ramp" if epoch >= RAMP_EPOCHS else "ramp"
            parts["first_steps" if step < FIRST_STEPS else late] += norms.ratios
            num_operators, step = max(num_operators, len(norms.ratios)), step + 1
    summary: dict[str, object] = {name: summary_of(values) for name, values in parts.items()}
    every = [ratio for values in parts.values() for ratio in values]
    return {
        "num_operators": num_operators,
        "num_steps": step,
        "last_loss": float(loss.detach()),
    } | summary, every


def summary_of(ratios: Sequence[float]) -> dict[str, float]:
    """Least, median and largest, and how many there are."""
    if not ratios:
        return {"count": 0}
    return {
        "least": min(ratios),
        "median": statistics.median(ratios),
        "largest": max(ratios),
        "count": len(ratios),
    }


def main() -> None:
    """Runs all and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=8, help="of training, for each net")
    parser.add_argument("--seed", type=int, default=0, help="of weights and of the order of examples")
    parser.add_argument("--rate", type=float, default=2e-3, help="of Adam")
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here too")
    arguments = parser.parse_args()
    dataset, started = data.load("digits"), time.perf_counter()
    networks: dict[str, object] = {}
    every: list[float] = []
    for name, make in NETWORKS.items():
        torch.manual_seed(arguments.seed)
        networks[name], ratios = ratios_of(
            make(), dataset, arguments.epochs, seed=arguments.seed, rate=arguments.rate
        )
        every += ratios
    result = {
        "command": " ".join(["python", "benchmarks/power_iteration.py", *sys.argv[1:]]),
        "seed": arguments.seed,
        "machine": {"device": "cpu", "threads": torch.get_num_threads(), "torch": torch.__version__},
        "seconds": time.perf_counter() - started,
        "dataset": "digits",
        "epsilon": EPSILON,
        "rate": arguments.rate,
        "networks": networks,
        "all": summary_of(every),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
