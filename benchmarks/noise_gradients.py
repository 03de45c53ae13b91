"""How well each loss's gradient follows that of the expected loss under noise.

    python benchmarks/noise_gradients.py

A small net is trained for one epoch of MNIST, plainly and on fresh noise. On batches of 128 the gradient
of the expected cross-entropy, over many draws, is then held against that of one draw, of a few, and of the
analytic forms: the cosine between them, and the length as a share of the true one. The draws' gradients
scatter around the true one and average out over steps; what analytic forms miss they miss in every step:
so the result holds, too, the cosine of gradients that are averaged over all batches.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from withstand import data, models
from withstand.data import Dataset, batches, epoch_order
from withstand.objectives import (
    CrossEntropy,
    EveryLayer,
    FirstActivation,
    GaussianExpectation,
    MeanField,
    NoisyCrossEntropy,
    Objective,
    OfMean,
    Propagation,
)

BATCH = 128


def trained(dataset: Dataset, objective: Objective) -> nn.Module:
    """The small net after one epoch."""
    torch.manual_seed(0)
    model = models.create("cnn-small", dataset=dataset.info)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for images, labels in batches(
        dataset.train, BATCH, order=epoch_order(len(dataset.train), seed=0, epoch=0)
    ):
        optimizer.zero_grad()
        objective(model, images, labels).loss.backward()
        optimizer.step()
    return model


def gradient(model: nn.Module, objective: Objective, images: Tensor, labels: Tensor) -> Tensor:
    """Of all weights, as one vector."""
    loss = objective(model, images, labels).loss
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, [*model.parameters()])])


def compare(
    model: nn.Module, dataset: Dataset, noise_std: float, num_draws: int, num_batches: int
) -> dict[str, dict[str, float]]:
    """Cosine and length of each loss's gradient, against the mean over draws."""
    losses: Mapping[str, Objective] = {
        "plain": CrossEntropy(),
        "one draw": NoisyCrossEntropy(noise_std, keeps_clean=False),
        "5 draws": NoisyCrossEntropy(noise_std, 5, keeps_clean=False),
        "20 draws": NoisyCrossEntropy(noise_std, 20, keeps_clean=False),
        "first activation": _expected(noise_std, FirstActivation()),
        "every layer, of mean": _expected(noise_std, EveryLayer(OfMean())),
        "every layer, mean field": _expected(noise_std, EveryLayer(MeanField())),
        "every layer, 4 factors": _expected(noise_std, EveryLayer(MeanField(), num_factors=4)),
    }
    torch.manual_seed(1)
    true = NoisyCrossEntropy(noise_std, num_draws, keeps_clean=False)
    cosines: dict[str, list[float]] = {name: [] for name in losses}
    lengths: dict[str, list[float]] = {name: [] for name in losses}
    sums: dict[str, Tensor] = {}
    order = epoch_order(len(dataset.train), seed=1, epoch=0)[: BATCH * num_batches]
    for images, labels in batches(dataset.train, BATCH, order=order):
        true_gradient = gradient(model, true, images, labels)
        sums["true"] = sums.get("true", torch.zeros(())) + true_gradient
        for name, objective in losses.items():
            estimate = gradient(model, objective, images, labels)
            sums[name] = sums.get(name, torch.zeros(())) + estimate
            cosines[name].append(_cosine(estimate, true_gradient))
            lengths[name].append((estimate.norm() / true_gradient.norm()).item())
    return {
        name: {
            "cosine": sum(cosines[name]) / num_batches,
            "length": sum(lengths[name]) / num_batches,
            "cosine_of_average": _cosine(sums[name], sums["true"]),
        }
        for name in losses
    }


def _expected(noise_std: float, propagation: Propagation) -> Objective:
    return GaussianExpectation(noise_std, clean_weight=0.0, propagation=propagation)


def _cosine(first: Tensor, second: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(first, second, dim=0).item()


def main() -> None:
    """Runs all and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--noise_std", type=float, default=0.3)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--out", type=Path, default=None, help="write the JSON object there too")
    arguments = parser.parse_args()
    dataset = data.load("mnist")
    ways: Mapping[str, Callable[[], Objective]] = {
        "trained plainly": CrossEntropy,
        "trained on fresh noise": lambda: NoisyCrossEntropy(arguments.noise_std, keeps_clean=False),
    }
    result = {
        "noise_std": arguments.noise_std,
        "draws": arguments.draws,
        "batches": arguments.batches,
        **{
            name: compare(
                trained(dataset, make()), dataset, arguments.noise_std, arguments.draws, arguments.batches
            )
            for name, make in ways.items()
        },
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
