"""What analytic Gaussian moments cost in training, as ratios within one run.

    make benchmark

A training step (Adam) with the expectation loss in its published form and through every layer, and with
noisy copies, against a plain step; on MNIST-sized images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from textbook_moments import expectation_loss
from timing import interleaved, training_step
from withstand import models
from withstand.objectives import (
    CrossEntropy,
    EveryLayer,
    GaussianExpectation,
    MeanField,
    NoisyCrossEntropy,
    Objective,
    OfMean,
)

NOISE_STD = 0.25


def step_cost(name: str, dataset: str, batch_size: int, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of a step of a network with each objective, and times a plain one."""
    torch.manual_seed(0)
    model = models.create(name, dataset=dataset)
    assert isinstance(model, nn.Sequential)
    channels, side = (1, 28) if dataset == "mnist" else (3, 32)
    images, labels = torch.rand(batch_size, channels, side, side), torch.arange(batch_size) % 10
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-9)  # weights stay where they are

    train = partial(training_step, optimizer)

    def of(objective: Objective) -> Callable[[], None]:
        return train(lambda: objective(model, images, labels).loss)

    quick = {
        "plain": of(CrossEntropy()),
        "fresh-noise": of(NoisyCrossEntropy(NOISE_STD, keeps_clean=False)),
        "published": of(GaussianExpectation(NOISE_STD)),
        "textbook-published": train(lambda: expectation_loss(model, images, labels, NOISE_STD)),
        "every-layer-of-mean": of(GaussianExpectation(NOISE_STD, propagation=EveryLayer(OfMean()))),
        "every-layer-mean-field": of(GaussianExpectation(NOISE_STD, propagation=EveryLayer(MeanField()))),
        "every-layer-4-factors": of(
            GaussianExpectation(NOISE_STD, propagation=EveryLayer(MeanField(), num_factors=4))
        ),
        "copies-1": of(NoisyCrossEntropy(NOISE_STD, 1)),
    }
    slow = {"plain": quick["plain"], "copies-20": of(NoisyCrossEntropy(NOISE_STD, 20))}
    seconds = interleaved(quick, rounds=rounds)
    slower = interleaved(slow, rounds=max(1, rounds // 3))
    ratios = {key: value / seconds["plain"] for key, value in seconds.items()}
    ratios["copies-20"] = slower["copies-20"] / slower["plain"]
    return {"seconds": {**slower, **seconds}, "times_plain": ratios}


def main() -> None:
    """Runs all and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None, help="write the JSON object there too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = {
        "torch": torch.__version__,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "lenet, mnist, batch 128": step_cost("lenet", "mnist", 128, arguments.rounds),
        "cnn-small, mnist, batch 128": step_cost("cnn-small", "mnist", 128, 3 * arguments.rounds),
        "vgg16, cifar10, batch 16": step_cost("vgg16", "cifar10", 16, max(1, arguments.rounds // 3)),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
