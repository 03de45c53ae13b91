"""What networks with random weights cost, as ratios within one run.

    make benchmark

The MLP 784-1200-1200-10 with a Gaussian posterior, batches of 100:

1. a training step (SGD) with the spectral expectation term over the same without it, beside the published
   form of the term;
2. 15 weight samples in one pass over 15 passes, of a training step, a prediction and an attack's gradient;
3. the value of the term against 10,000 draws of the same surrogate.
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

from textbook_spectral_expectation import many_passes, spectral_expectation
from timing import interleaved, training_step
from withstand import bayes, models
from withstand.bayes import Posterior
from withstand.objectives import Objective, Variational
from withstand.penalties import SpectralExpectation

NUM_DATA, BATCH_SIZE, NUM_SAMPLES = 60_000, 100, 15
WEIGHT = 0.02  # of the term, as published


def network() -> tuple[nn.Module, Tensor, Tensor]:
    """The published network as it begins, and a batch."""
    torch.manual_seed(0)
    posterior = Posterior(prior_std=0.1, initial_std=(0.0486, 0.1269), mean_range=0.1)
    model = bayes.convert(models.create("mlp", dataset="mnist"), posterior)
    return model, torch.rand(BATCH_SIZE, 1, 28, 28), torch.arange(BATCH_SIZE) % 10


def term_cost(num_samples: int, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of a step with and without the term, and times the step without it."""
    model, images, labels = network()
    # Weights all but stay where they are, while what is stored from step to step is used.
    train = partial(training_step, torch.optim.SGD(model.parameters(), lr=1e-9))

    def of(objective: Objective) -> Callable[[], None]:
        return train(lambda: objective(model, images, labels).loss)

    bound = Variational(NUM_DATA, num_samples)
    seconds = interleaved(
        {
            "without": of(bound),
            "with": of(bound + WEIGHT * SpectralExpectation()),
            "textbook": train(
                lambda: bound(model, images, labels).loss + WEIGHT * spectral_expectation(model)
            ),
        },
        rounds=rounds,
    )
    return {
        "seconds": seconds,
        "times_without": {name: value / seconds["without"] for name, value in seconds.items()},
    }


def sampling_cost(rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of 15 samples in one pass and in 15, and how much faster one pass is."""
    model, images, labels = network()
    train = partial(training_step, torch.optim.SGD(model.parameters(), lr=1e-9))
    batched = Variational(NUM_DATA, NUM_SAMPLES)
    loop = partial(many_passes, model, images, labels, num_samples=NUM_SAMPLES)

    def together(inputs: Tensor) -> Tensor:
        return bayes.sample_logits(model, inputs, NUM_SAMPLES).softmax(dim=2).mean(dim=0)

    def apart(inputs: Tensor) -> Tensor:
        return torch.stack([model(inputs).softmax(dim=1) for _ in range(NUM_SAMPLES)]).mean(dim=0)

    def prediction(probabilities: Callable[[Tensor], Tensor]) -> None:
        with torch.no_grad():
            probabilities(images)

    def attack(probabilities: Callable[[Tensor], Tensor]) -> None:
        leaf = images.clone().requires_grad_()
        torch.autograd.grad(F.nll_loss(probabilities(leaf).log(), labels), leaf)

    seconds = interleaved(
        {
            "step": train(lambda: batched(model, images, labels).loss),
            "step in a loop": train(lambda: loop(divergence_share=1 / NUM_DATA)),
            "step, no divergence": train(lambda: likelihood(model, images, labels)),
            "step in a loop, no divergence": train(lambda: loop(divergence_share=0.0)),
            "prediction": partial(prediction, together),
            "prediction in a loop": partial(prediction, apart),
            "attack": partial(attack, together),
            "attack in a loop": partial(attack, apart),
        },
        rounds=rounds,
    )
    pieces = [name for name in seconds if "in a loop" not in name]
    looped = {name: name.replace("step", "step in a loop") for name in pieces} | {
        name: f"{name} in a loop" for name in ("prediction", "attack")
    }
    return {
        "seconds": seconds,
        "times_as_fast": {name: seconds[looped[name]] / seconds[name] for name in pieces},
    }


def likelihood(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy of 15 samples in one pass."""
    logits = bayes.sample_logits(model, images, NUM_SAMPLES).flatten(0, 1)
    return F.cross_entropy(logits, labels.repeat(NUM_SAMPLES))


def value_error(num_draws: int) -> dict[str, float]:
    """The term, and the same with exact singular values and the largest entry drawn."""
    model, images, labels = network()
    penalty = SpectralExpectation(squared=False)
    terms = {"first_step": penalty(model, images, labels).loss.item()}
    for _ in range(100):
        terms["after_100_steps"] = penalty(model, images, labels).loss.item()
    drawn, largest = 0.0, 0.0
    with torch.no_grad():
        for _, layer in bayes.variational_layers(model):
            mean, std, _ = layer.normals()["weight"]
            maxima = _drawn_maxima(std, num_draws)
            norms = torch.linalg.matrix_norm(mean, ord=2) + std.norm(dim=1).max() + std.norm(dim=0).max()
            drawn += float(norms + maxima.mean())
            error = bayes.expected_maximum(std) / maxima.mean() - 1
            largest = max(largest, abs(float(error)))
    errors = {f"relative_error_{name}": value / drawn - 1 for name, value in terms.items()}
    return {**terms, "drawn": drawn, **errors, "largest_relative_error_of_the_maximum": largest}


def _drawn_maxima(std: Tensor, num_draws: int) -> Tensor:
    """The largest magnitude of each draw, one draw of the whole weight after the other."""
    noise, maxima = torch.empty_like(std), torch.empty(num_draws)
    for number in range(num_draws):
        torch.mul(noise.normal_(), std, out=noise)
        low, high = noise.aminmax()
        maxima[number] = torch.maximum(-low, high)
    return maxima


def main() -> None:
    """Runs all and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=None, help="write the JSON object there too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = {
        "torch": torch.__version__,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "draws": arguments.draws,
        "term, 1 sample": term_cost(1, arguments.rounds),
        "term, 15 samples": term_cost(NUM_SAMPLES, arguments.rounds),
        "15 samples in one pass": sampling_cost(arguments.rounds),
        "value": value_error(arguments.draws),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
