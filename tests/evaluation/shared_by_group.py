"""Run by each process of a group: evaluations that they share, in the folder that is named."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

import withstand as ws
from withstand.cli import entry
from withstand.core.processes import is_first, joined, rank
from withstand.evaluation import Evaluation, Processes, Sampling, meters


def network(seed: int = 0) -> nn.Module:
    """A small net for digits."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))


class Faulty(nn.Module):
    """Fails, or ends its process, in the second process of a group."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.network, self.fault = network(), fault

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Logits of images; of so many at once only batches are asked."""
        if len(images) == 20 and os.environ.get("RANK") == "1":
            if self.fault == "ends":
                os._exit(9)
            raise KeyError("a fault of its own")
        logits: Tensor = self.network(images)
        return logits


def measured(model: nn.Module, **options: Any) -> Evaluation:
    """The evaluation that is compared."""
    attacks = meters.Attacks([ws.attacks.PGD(num_steps=3)], epsilons=[0.02, 0.05])
    what: list[meters.Meter] = [attacks, meters.NoiseCurve()]
    if ws.bayes.is_stochastic(model):
        options["sampling"] = Sampling(num_samples=2, attack_samples=2)
    elif not isinstance(model, Faulty):
        what.append(meters.Certificate(norm=torch.inf, epsilons=[0.01]))
    return ws.evaluate(model, ws.data.load("digits"), what, num_examples=70, batch_size=20, **options)


def _error_of(model: nn.Module) -> list[str]:
    try:
        measured(model, workers=Processes())
    except Exception as error:
        return [type(error).__name__, str(error)]
    return []


def main(folder: Path, command: Sequence[str]) -> None:
    """Evaluates, one thing after another."""
    torch.set_num_threads(1)
    with joined():
        if status := entry.main([*command, f"--out={folder / 'command'}"]):
            raise SystemExit(status)
        certain = measured(network(), out=folder / "certain", workers=Processes())
        measured(ws.bayes.convert(network()), out=folder / "bayes", workers=Processes())
        told = {
            "rows": certain.rows.to_csv(),
            "fails": _error_of(Faulty("fails")),
            "other": _error_of(network(rank())),
            "alone": len(measured(network()).rows) if is_first() else 0,
        }
        (folder / f"told-{rank()}.json").write_text(json.dumps(told), encoding="utf-8")
        measured(Faulty("ends"), out=folder / "ended", workers=Processes())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
