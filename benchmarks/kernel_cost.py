"""What kernel-norm penalties and spectral constraints cost, as ratios within one run.

    make benchmark

1. A training step of VGG-11 on CIFAR-10-sized images, batch 32, with each penalty, against a plain
   step, and against the textbook formulation.
2. The share of the exact perturbation penalty that is left with few candidates.
3. A step with weights projected onto the spectral ball after it, exactly, or within a warm-started subspace
   between exact projections; and by how much the radius is then exceeded.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textbook_kernel import adversarial_perturbation, input_gradient, loss_gradient, project_spectral
from timing import interleaved, training_step
from withstand import data, models
from withstand.constraints import Constraint, SpectralBall
from withstand.data import batches, epoch_order
from withstand.loss.terms import Objective
from withstand.objectives import CrossEntropy
from withstand.penalties import (
    AdversarialPerturbation,
    InputGradient,
    LossGradient,
    SpectralNorm,
    VirtualAdversarial,
)
from withstand.types import Batch, DataError

BATCH = 32
RADIUS = 0.8
CANDIDATES = 3


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    model = models.create("vgg11", dataset="cifar10")
    assert isinstance(model, nn.Sequential)
    return model


def _pictures() -> list[Batch]:
    """The first batches of CIFAR-10 as JPEG; noise where it is not there."""
    try:
        split = data.load("cifar10-jpeg", train_size=1000).train
    except DataError:
        generator = torch.Generator().manual_seed(0)
        return [
            Batch(torch.rand(BATCH, 3, 32, 32, generator=generator), torch.arange(BATCH) % 10)
            for _ in range(31)
        ]
    return list(batches(split, BATCH, order=epoch_order(len(split), seed=0, epoch=0), drop_last=True))


def penalty_cost(rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of a step with each penalty, and times a plain one."""
    model, (images, labels) = _network(), _pictures()[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9)  # weights stay where they are

    train = partial(training_step, optimizer)

    def of(objective: Objective) -> Callable[[], None]:
        return train(lambda: objective(model, images, labels).loss)

    def textbook(penalty: Callable[[], Tensor]) -> Callable[[], None]:
        return train(lambda: penalty() + F.cross_entropy(model(images), labels))

    plain = CrossEntropy()
    quick = {
        "plain": of(plain),
        "input-gradient": of(plain + 0.1 * InputGradient()),
        "loss-gradient-l2": of(plain + 0.1 * LossGradient(2)),
        "loss-gradient-l1": of(plain + 0.1 * LossGradient(1)),
        "virtual-adversarial": of(plain + VirtualAdversarial()),
        "perturbation-candidates": of(plain + AdversarialPerturbation(1.0, candidates=CANDIDATES)),
        "spectral-norm": of(plain + 0.01 * SpectralNorm()),
        "spectral-norm-exact": of(plain + 0.01 * SpectralNorm(num_power_iterations=None)),
        "textbook-input-gradient": textbook(lambda: 0.1 * input_gradient(model, images)),
        "textbook-loss-gradient-l2": textbook(lambda: 0.1 * loss_gradient(model, images, labels)),
    }
    slow = {
        "plain": of(plain),
        "perturbation": of(plain + AdversarialPerturbation(1.0)),
        "textbook-perturbation": textbook(lambda: adversarial_perturbation(model, images, 1.0, 5)),
    }
    seconds = interleaved(quick, rounds=rounds)
    slower = interleaved(slow, rounds=max(1, rounds // 3))
    ratios = {name: value / seconds["plain"] for name, value in seconds.items()}
    ratios |= {name: value / slower["plain"] for name, value in slower.items() if name != "plain"}
    return {"seconds": {**slower, **seconds}, "times_plain": ratios}


def candidates_share(num_steps: int, num_batches: int) -> dict[str, float]:
    """The penalty of the candidates over that of all images, on a network that has begun to learn."""
    model, pictures = _network(), _pictures()
    constraint = SpectralBall(3.0)  # keeps so deep a net without normalisation from diverging
    objective = CrossEntropy() + AdversarialPerturbation(0.3, candidates=CANDIDATES)
    _train(model, pictures, num_steps, objective=objective, constraint=constraint)
    full, quick = AdversarialPerturbation(1.0), AdversarialPerturbation(1.0, candidates=CANDIDATES)
    shares = [
        (quick(model, *batch).loss / full(model, *batch).loss).item() for batch in pictures[:num_batches]
    ]
    fresh = _network()
    untrained = quick(fresh, *pictures[0]).loss / full(fresh, *pictures[0]).loss
    return {"trained": sum(shares) / len(shares), "lowest": min(shares), "untrained": untrained.item()}


def _train(
    model: nn.Module,
    pictures: list[Batch],
    num_steps: int,
    *,
    objective: Objective | None = None,
    constraint: Constraint | None = None,
) -> None:
    chosen = CrossEntropy() if objective is None else objective
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for step in range(num_steps):
        optimizer.zero_grad()
        chosen(model, *pictures[step % len(pictures)]).loss.backward()
        optimizer.step()
        if constraint is not None:
            constraint.after_step_(model, step=step + 1, progress=0.0)


def constraint_cost(rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of a step and what holds its weights after it, and times a plain one."""
    pictures = _pictures()

    def of(after: Callable[[nn.Module, int], None]) -> Callable[[], None]:
        model, count = _network(), iter(range(1, 10**9))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        SpectralBall(RADIUS).project_(model)

        def step() -> None:
            number = next(count)
            optimizer.zero_grad()
            CrossEntropy()(model, *pictures[number % len(pictures)]).loss.backward()
            optimizer.step()
            after(model, number)

        return step

    def held(constraint: Constraint) -> Callable[[], None]:
        return of(lambda model, step: constraint.after_step_(model, step=step, progress=0.0))

    seconds = interleaved(
        {
            "plain": of(lambda model, step: None),
            "exact": held(SpectralBall(RADIUS)),
            "subspace": held(SpectralBall(RADIUS, every=10**9, subspace=16)),
            "textbook-svd": of(lambda model, step: project_spectral(model, RADIUS)),
        },
        rounds=rounds,
    )
    return {
        "seconds": seconds,
        "times_plain": {name: value / seconds["plain"] for name, value in seconds.items()},
        "excess": _excess(pictures, 50),
    }


def _excess(pictures: list[Batch], num_steps: int) -> dict[str, float]:
    """How far the largest singular value of any weight comes above the radius with the subspace alone."""
    model = _network()
    constraint = SpectralBall(RADIUS, every=10**9, subspace=16)
    constraint.project_(model)
    largest = 0.0
    for _ in range(5):
        _train(model, pictures, num_steps // 5, constraint=constraint)
        for weight in model.parameters():
            if weight.dim() > 1:
                norm = torch.linalg.matrix_norm(weight.detach().flatten(1).double(), 2).item()
                largest = max(largest, norm)
    return {"radius": RADIUS, "largest_singular_value": largest, "steps": float(num_steps)}


def main() -> None:
    """Runs all and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60, help="of training, before candidates are compared")
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = {
        "machine": {"threads": torch.get_num_threads(), "torch": torch.__version__},
        "penalties": penalty_cost(arguments.rounds),
        "constraints": constraint_cost(arguments.rounds),
        "candidates_share_of_exact": candidates_share(arguments.steps, 8),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
