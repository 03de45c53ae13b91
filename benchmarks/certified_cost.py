"""What certified training and certificates cost, as ratios within one run.

    make benchmark

1. A training step of box constraint propagation, of IBP, of CROWN-IBP and of Lipschitz-margin training
   against a plain step, and against the textbook formulation with (batch, class, class, hidden) tensors.
2. The peak memory of the worst logits of 100 classes, forward and backward, against the textbook's.
3. With ``--certify``, which takes minutes: the certified accuracy of 10,000 images and all their
   certified radii, in float64. The labels are the model's predictions, so that no example is spared.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from textbook_bcp import TextbookBCP, worst_logits
from timing import interleaved
from withstand import Certifier, data, models
from withstand.core.schedules import Linear
from withstand.data import batches, epoch_order
from withstand.domains import Ball, Box, BoxBall
from withstand.objectives import Certified, CrossEntropy
from withstand.types import DataError

EPSILON = {2.0: 1.58, math.inf: 0.1}
NAMES = {2.0: "l2", math.inf: "linf"}


def _network(name: str = "cnn-4c3f") -> nn.Sequential:
    torch.manual_seed(0)
    model = models.create(name, dataset="mnist", normalize=False)
    assert isinstance(model, nn.Sequential)
    return model


def step_cost(network: str, batch_size: int, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of a training step of a network on MNIST-sized images, and times a plain one."""
    model = _network(network)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)  # the weights stay where they are
    images, labels = torch.rand(batch_size, 1, 28, 28), torch.randint(10, (batch_size,))

    def train(loss: Callable[[], Tensor]) -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    def of(objective: Certified | CrossEntropy) -> Callable[[], None]:
        return partial(train, lambda: objective(model, images, labels).loss)

    def textbook(norm: float) -> Callable[[], None]:
        bound = TextbookBCP(model, norm, EPSILON[norm])
        return partial(train, lambda: bound.loss(images, labels))

    seconds = interleaved(
        {
            "plain": of(CrossEntropy()),
            **{f"bcp-{name}": of(Certified(norm, EPSILON[norm])) for norm, name in NAMES.items()},
            **{f"textbook-{name}": textbook(norm) for norm, name in NAMES.items()},
            "ibp-linf": of(Certified(math.inf, EPSILON[math.inf], domain="box")),
            "crown-ibp-linf": of(Certified(math.inf, EPSILON[math.inf], domain="linear")),
            "lipschitz-l2": of(Certified(2, EPSILON[2.0], domain="ball")),
        },
        rounds=rounds,
    )
    times_plain = {name: value / seconds["plain"] for name, value in seconds.items()}
    speed_up = {name: seconds[f"textbook-{name}"] / seconds[f"bcp-{name}"] for name in NAMES.values()}
    return {"seconds": seconds, "times_plain": times_plain, "textbook_over_bcp": speed_up}


def peak_memory(num_classes: int = 100, batch_size: int = 4, hidden: int = 64) -> dict[str, float]:
    """Bytes that the worst logits allocate at their peak, backward pass included."""
    torch.manual_seed(0)
    weight = torch.randn(num_classes, hidden).div(math.sqrt(hidden)).requires_grad_()
    labels = torch.randint(num_classes, (batch_size,))
    center = torch.randn(batch_size, hidden).requires_grad_()
    lower, upper = center - torch.rand(batch_size, hidden), center + torch.rand(batch_size, hidden)
    radius = torch.full((batch_size,), 4.0)  # so that some coordinates are clipped

    def ours() -> Tensor:
        value = BoxBall(Ball(center, radius), Box(lower, upper))
        return value.worst_differences(weight, labels)

    def textbook() -> Tensor:
        gains = worst_logits(weight, lower - center, upper - center, radius, 10)
        return gains[torch.arange(batch_size), :, labels]

    value, expected = ours().detach(), textbook().detach()
    peaks = {"withstand": _peak(ours, labels), "textbook": _peak(textbook, labels)}
    return {
        **peaks,
        "share_of_textbook": peaks["withstand"] / peaks["textbook"],
        "largest_relative_difference": float((value - expected).abs().max() / expected.abs().max()),
    }


def _peak(worst: Callable[[], Tensor], labels: Tensor) -> float:
    """The largest sum of bytes that torch's allocator held at once, forward and backward."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        loss = F.cross_entropy(worst(), labels)
        loss.backward(retain_graph=True)  # of the box, which both share
    assert record.profiler is not None
    assert record.profiler.kineto_results is not None
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    return float(max(accumulate(event.nbytes() for event in sorted(events, key=lambda e: e.start_ns()))))


def certification_cost(norm: float, num_images: int, num_steps: int) -> dict[str, float]:
    """Seconds to certify images by the 4C3F network in float64, and to find all their radii."""
    model, images, true_labels = _trained(norm, num_steps)
    images, true_labels = images[:num_images], true_labels[:num_images]
    certifier = Certifier(model)
    labels = certifier.predict(images).argmax(dim=1)
    certify = partial(certifier.certify, norm=norm, epsilon=EPSILON[norm])
    first, again = (_seconds(partial(certify, images[:1], labels[:1])) for _ in range(2))
    accuracy = _seconds(partial(certify, images, labels))
    started = time.perf_counter()
    radius = certifier.radius(images, labels, norm=norm)
    return {
        "num_images": len(images),
        "threads": torch.get_num_threads(),
        "norm_bounds_and_tracing_seconds": first - again,
        "certified_accuracy_seconds": accuracy,
        "radii_seconds": time.perf_counter() - started,
        "clean_accuracy": float((labels == true_labels).double().mean()),
        "median_radius": float(radius.median()),
        "certified": float((radius >= EPSILON[norm]).double().mean()),
    }


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _trained(norm: float, num_steps: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The network after some certified training on MNIST, so that radii are as in practice."""
    model = _network()
    try:
        dataset = data.load("mnist")
    except DataError:
        return model, torch.rand(10_000, 1, 28, 28), torch.zeros(10_000)
    objective = Certified(norm, Linear(0.0, EPSILON[norm], num_steps), kappa=0.5)
    optimizer = torch.optim.Adam(model.parameters())
    order = epoch_order(len(dataset.train), seed=0, epoch=0)[: 100 * num_steps]
    for step, batch in enumerate(batches(dataset.train, 100, order=order)):
        optimizer.zero_grad()
        objective(model, *batch, progress=float(step)).loss.backward()
        optimizer.step()
    images, labels = next(batches(dataset.test, 10_000))
    return model, images, labels


def main() -> None:
    """Runs all and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--network", default="cnn-4c3f", help="whose training step is timed")
    parser.add_argument("--batch-size", type=int, default=50, help="of that step")
    parser.add_argument("--certify", action="store_true", help="measure certification too; takes minutes")
    parser.add_argument("--images", type=int, default=10_000, help="how many to certify")
    parser.add_argument("--steps", type=int, default=300, help="of training, before certification")
    parser.add_argument("--threads", type=int, default=2, help="of certification")
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here too")
    arguments = parser.parse_args()
    result: dict[str, object] = {
        "machine": {"threads": torch.get_num_threads(), "torch": torch.__version__},
        "training_step": step_cost(arguments.network, arguments.batch_size, arguments.rounds),
        "worst_logits_bytes_100_classes": peak_memory(),
    }
    if arguments.certify:
        torch.set_num_threads(arguments.threads)
        result["certification"] = {
            name: certification_cost(norm, arguments.images, arguments.steps) for norm, name in NAMES.items()
        }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
