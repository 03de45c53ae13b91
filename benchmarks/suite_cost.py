"""What the suite ``standard`` costs beside pyautoattack alone, and whether it is ever the weaker.

    python benchmarks/suite_cost.py --weights runs/my-run --out results/benchmarks/suite_cost.json

Both attack the same examples in the same batches from the same seed: first
``pyautoattack.AutoAttack(version="standard").run_standard_evaluation`` called directly, then the suite, whose
first members are the same and which adds PGD. Noted are the seconds of both and of each member, the share of
the suite's time that is spent neither in a member nor in the model's own passes, and the robust examples.
Without ``--weights`` a small net is trained for an epoch first.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import pyautoattack
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand import data, models
from withstand.attacks import PGD, AutoAttack, Cascade, suite
from withstand.data import Dataset, batches, epoch_order, sample
from withstand.runs.loading import load_run_model
from withstand.runs.run_parts import load_data, open_run
from withstand.types import Batch

NORMS = {"l1": 1.0, "l2": 2.0, "linf": math.inf}


@dataclass
class Clock:
    """Seconds by name; what runs inside a piece that is being counted counts for that piece alone."""

    seconds: dict[str, float] = field(default_factory=dict)
    is_running: bool = False

    @contextmanager
    def counting(self, name: str) -> Iterator[None]:
        """Counts what happens meanwhile."""
        if self.is_running:
            yield
            return
        self.is_running, started = True, time.perf_counter()
        try:
            yield
        finally:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
            self.is_running = False


class TimedModel(nn.Module):
    """A model whose passes outside of attacks are counted as ``model passes``."""

    def __init__(self, model: nn.Module, clock: Clock) -> None:
        super().__init__()
        self.model = model
        self.clock = clock

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes)."""
        with self.clock.counting("model passes"):
            logits: Tensor = self.model(images)
        return logits


def counted(perturb: Callable[..., Tensor], clock: Clock) -> Callable[..., Tensor]:
    """The method ``perturb`` of an attack, counted under the attack's name."""

    def run(self: Any, *inputs: Any, **options: Any) -> Tensor:
        with clock.counting(self.name):
            return perturb(self, *inputs, **options)

    return run


def by_suite(model: nn.Module, parts: list[Batch], attack: Cascade, clock: Clock) -> list[Tensor]:
    """The suite's images of each batch."""
    timed = TimedModel(model, clock).eval()
    with ExitStack() as stack:
        for kind in (AutoAttack, PGD):
            stack.enter_context(patch.object(kind, "perturb", counted(kind.perturb, clock)))
        return [attack(timed, *batch) for batch in parts]


def directly(model: nn.Module, parts: list[Batch], norm: str, epsilon: float) -> list[Tensor]:
    """The images of each batch that pyautoattack makes by itself."""
    logging.getLogger("auto-attack").disabled = True
    official = pyautoattack.AutoAttack(
        model, norm=norm.capitalize(), eps=epsilon, seed=0, device=parts[0].images.device
    )
    return [
        cast(Tensor, official.run_standard_evaluation(*batch, batch_size=len(batch.images))[0])
        for batch in parts
    ]


def is_robust(model: nn.Module, parts: list[Batch], adversarial: list[Tensor]) -> Tensor:
    """Whether the model is correct on each adversarial image (examples,)."""
    with torch.no_grad():
        pairs = zip(parts, adversarial, strict=True)
        return torch.cat([model(images).argmax(dim=1) == batch.labels for batch, images in pairs])


def compare(model: nn.Module, parts: list[Batch], norm: str, epsilon: float) -> dict[str, Any]:
    """Seconds and accuracies of both."""
    clock = Clock()
    num_classes = model(parts[0].images[:1]).shape[1]
    attack = suite("standard", norm=NORMS[norm], num_classes=num_classes).at(epsilon).for_evaluation()
    started = time.perf_counter()
    alone = directly(model, parts, norm, epsilon)
    between = time.perf_counter()
    together = by_suite(model, parts, attack, clock)
    ended = time.perf_counter()
    by_autoattack, by_all = is_robust(model, parts, alone), is_robust(model, parts, together)
    return {
        "norm": norm,
        "epsilon": epsilon,
        "num_examples": len(by_all),
        "clean_accuracy": float(is_robust(model, parts, [batch.images for batch in parts]).float().mean()),
        "pyautoattack_seconds": between - started,
        "pyautoattack_accuracy": float(by_autoattack.float().mean()),
        "suite_seconds": ended - between,
        "suite_accuracy": float(by_all.float().mean()),
        "examples_that_stand_to_the_suite_alone": int((by_all & ~by_autoattack).sum()),
        "seconds": clock.seconds,
        "share_outside": 1 - sum(clock.seconds.values()) / (ended - between),
    }


def trained(dataset: Dataset) -> nn.Module:
    """A small network, trained for an epoch."""
    torch.manual_seed(0)
    model = models.create("cnn-small", dataset=dataset.info)
    optimizer = torch.optim.Adam(model.parameters())
    for images, labels in batches(dataset.train, 128, order=epoch_order(len(dataset.train), seed=0, epoch=0)):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


def main() -> None:
    """Runs both and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, default=None, help="a run folder; trains anew where left out")
    parser.add_argument("--data", default="mnist", help="to train on, without --weights: mnist or digits")
    parser.add_argument("--norm", choices=tuple(NORMS), default="linf")
    parser.add_argument("--epsilon", type=float, default=0.1)
    parser.add_argument("--num-examples", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here too")
    arguments = parser.parse_args()
    if arguments.weights is None:
        dataset = data.load(arguments.data)
        model = trained(dataset)
    else:
        run, parsed = open_run(arguments.weights)
        dataset = load_data(parsed.recipe)
        model = load_run_model(run, parsed.recipe)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parts = list(batches(sample(dataset.test, arguments.num_examples).to(device), arguments.batch_size))
    result = {
        "machine": {"threads": torch.get_num_threads(), "torch": torch.__version__, "device": device},
        "model": "cnn-small" if arguments.weights is None else arguments.weights.name,
        **compare(model.to(device).eval(), parts, arguments.norm, arguments.epsilon),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
