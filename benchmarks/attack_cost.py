"""What an adversarial training step and an evaluation attack cost, as ratios within one run.

    make benchmark

1. A PGD-40 training step against steps x (forward + input-backward) + a plain step.
2. PGD-100 with mode ``evaluation`` on 1,000 images against foolbox's LinfPGD from the same random
   start with the same steps and step size: seconds, and robust accuracy.

With MNIST below the data root (WITHSTAND_DATA) the second part trains on it; otherwise on digits.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import foolbox
import torch
from foolbox.models.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn import functional as F

from timing import interleaved
from withstand import data, models
from withstand.attacks import PGD
from withstand.data import Dataset, batches, epoch_order
from withstand.loss.terms import Objective
from withstand.objectives import Adversarial, CrossEntropy

NUM_STEPS = 40
EPSILON = 0.1


def step_cost(name: str, batch_size: int, rounds: int) -> dict[str, float]:
    """Times the parts of one adversarial training step of a network on random MNIST-sized images."""
    torch.manual_seed(0)
    model = models.create(name, dataset="mnist")
    optimizer = torch.optim.Adam(model.parameters())
    images, labels = torch.rand(batch_size, 1, 28, 28), torch.randint(10, (batch_size,))

    def train(objective: Objective) -> None:
        optimizer.zero_grad()
        objective(model, images, labels).loss.backward()
        optimizer.step()

    def input_gradients() -> None:
        for _ in range(NUM_STEPS):
            leaf = images.clone().requires_grad_()
            torch.autograd.grad(F.cross_entropy(model(leaf), labels, reduction="sum"), leaf)

    attack = PGD(epsilon=0.3, num_steps=NUM_STEPS, step_size=0.01)
    seconds = interleaved(
        {
            "plain": partial(train, CrossEntropy()),
            "input_gradients": input_gradients,
            "adversarial": partial(train, Adversarial(attack)),
        },
        rounds=rounds,
    )
    ideal = seconds["input_gradients"] + seconds["plain"]
    return {**seconds, "ratio_to_ideal": seconds["adversarial"] / ideal}


def trained(dataset: Dataset, objective: Objective, epochs: int) -> nn.Module:
    """A small network, quickly trained."""
    torch.manual_seed(0)
    model = models.create("cnn-small", dataset=dataset.info)
    optimizer = torch.optim.Adam(model.parameters())
    for epoch in range(epochs):
        order = epoch_order(len(dataset.train), seed=0, epoch=epoch)
        for images, labels in batches(dataset.train, 128, order=order):
            optimizer.zero_grad()
            objective(model, images, labels, progress=float(epoch)).loss.backward()
            optimizer.step()
    return model.eval()


def against_foolbox(model: nn.Module, dataset: Dataset, rounds: int) -> dict[str, float]:
    """PGD-100 by both libraries on the same 1,000 images: seconds and robust accuracy."""
    images, labels = next(batches(dataset.test, 1000))
    step_size = 2.5 * EPSILON / 100
    ours = PGD(epsilon=EPSILON, num_steps=100, step_size=step_size, mode="evaluation")
    theirs = foolbox.attacks.LinfPGD(abs_stepsize=step_size, steps=100, random_start=True)
    wrapped = PyTorchModel(model, bounds=(0, 1))
    adversarial_images: dict[str, Tensor] = {}

    def run_ours() -> None:
        torch.manual_seed(0)  # the same random start for both
        adversarial_images["withstand"] = ours(model, images, labels)

    def run_theirs() -> None:
        torch.manual_seed(0)
        adversarial_images["foolbox"] = theirs(wrapped, images, labels, epsilons=EPSILON)[1]

    seconds = interleaved({"withstand": run_ours, "foolbox": run_theirs}, rounds=rounds)
    accuracy = {
        name: float((model(adversarial).argmax(1) == labels).float().mean())
        for name, adversarial in adversarial_images.items()
    }
    return {
        "withstand_seconds": seconds["withstand"],
        "foolbox_seconds": seconds["foolbox"],
        "speed_up": seconds["foolbox"] / seconds["withstand"],
        "withstand_robust_accuracy": accuracy["withstand"],
        "foolbox_robust_accuracy": accuracy["foolbox"],
        "clean_accuracy": float((model(images).argmax(1) == labels).float().mean()),
    }


def main() -> None:
    """Runs all and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", default="mnist", help="mnist or digits")
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here too")
    arguments = parser.parse_args()
    dataset = data.load(arguments.data)
    robust = Adversarial(PGD(epsilon=EPSILON, num_steps=7))
    result = {
        "machine": {
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "foolbox": foolbox.__version__,
        },
        "training_step": {name: step_cost(name, 128, arguments.rounds) for name in ("cnn-small", "cnn-4c3f")},
        "undefended": against_foolbox(trained(dataset, CrossEntropy(), 1), dataset, arguments.rounds),
        "robust": against_foolbox(trained(dataset, robust, 2), dataset, arguments.rounds),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
