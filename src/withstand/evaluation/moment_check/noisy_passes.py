"""Noisy images through a network, with mean and variance of each step's result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from withstand.core.devices import wait_for
from withstand.core.noise import GaussianNoise
from withstand.domains import Call, Program
from withstand.graph.layout import Layout
from withstand.graph.rules.norm_rules import BatchNorm
from withstand.types import ModelError

_Result = TypeVar("_Result")

_MOST_RUNS = 3
_SHORT = 0.05  # seconds; what takes longer is run once


def now(device: torch.device) -> float:
    """The time at which a device has done all that it was given, in seconds."""
    wait_for(device)
    return time.perf_counter()


def timed(function: Callable[[], _Result], device: torch.device) -> tuple[_Result, float]:
    """What a function gives, and how long it takes at best; what is short is run several times.

    Args:
        function: Gives the same at each run.
        device: Where it works.
    """
    best = float("inf")
    for _ in range(_MOST_RUNS):
        start = now(device)
        result = function()
        best = min(best, now(device) - start)
        if best > _SHORT:
            break
    return result, best


INPUT = "input of the network"
LOGITS = "logits of the network"


_PLAIN = Layout((1,), 0, 1)


class Sampled(NamedTuple):
    """Mean and variance of one value of the network under noise, over the draws.

    Attributes:
        mean: float64 tensor (images, …).
        variance: Likewise, with n - 1 draws in the denominator.
    """

    mean: Tensor
    variance: Tensor

    def rows(self, part: slice) -> Sampled:
        """Those of some of the images."""
        return Sampled(self.mean[part], self.variance[part])


@dataclass
class Samples:
    """What the draws gave.

    Attributes:
        values: Moments of each step's result by the node's name, of the input and of the logits.
        operations: Short name of the layer or function of each node, such as ``Conv2d``.
        seconds: Of one draw through each node, at best.
    """

    values: dict[str, Sampled]
    operations: dict[str, str]
    seconds: dict[str, float]


def part_of(key: str, index: int) -> str:
    """The key of one entry of what a node returns as a list."""
    return f"{key}[{index}]"


def sample(
    program: Program,
    images: Tensor,
    noise: GaussianNoise,
    num_samples: int,
    *,
    chunk: int,
    on_image: Callable[[], None],
) -> Samples:
    """Draws noise around each image and takes it through the network, step by step.

    Args:
        program: Of the network.
        images: Float tensor (images, …).
        noise: Drawn from torch's global generator.
        num_samples: Draws an image.
        chunk: How many at a time.
        on_image: Is called after each image.

    Raises:
        ModelError: a BatchNorm goes by the statistics of its batch, so that draws would not be independent.
    """
    operations: dict[str, str] = {}
    seconds: dict[str, float] = {}
    by_image: list[dict[str, Sampled]] = []
    for image in images:
        walk = _Walk(operations, seconds)
        for start in range(0, num_samples, chunk):
            clean = image.expand(min(chunk, num_samples - start), *image.shape)
            walk.through(program, clean + noise.draw(clean))
        by_image.append({key: tally.moments() for key, tally in walk.tallies.items()})
        on_image()
    values = {
        key: Sampled(
            torch.stack([moments[key].mean for moments in by_image]),
            torch.stack([moments[key].variance for moments in by_image]),
        )
        for key in by_image[0]
    }
    return Samples(values, operations, seconds)


def seconds_of_sample(model: nn.Module, images: Tensor, noise: GaussianNoise, chunk: int) -> float:
    """How long one draw takes: to make it, and to take it through the network as it is.

    Args:
        model: In eval mode.
        images: Float tensor (images, …).
        noise: What is drawn.
        chunk: How many draws at a time.
    """
    clean = images[:1].expand(chunk, *images.shape[1:])
    _, seconds = timed(lambda: model(clean + noise.draw(clean)), images.device)
    return seconds / chunk


@dataclass(frozen=True, eq=False)
class _Draws:
    """A value of the network at each draw, (draws, …)."""

    tensor: Tensor


@dataclass
class _Walk:
    """Draws around one image, on their way."""

    operations: dict[str, str]
    seconds: dict[str, float]
    tallies: dict[str, _Tally] = field(default_factory=dict)

    def through(self, program: Program, noisy: Tensor) -> None:
        self._noted(INPUT, noisy, [_PLAIN])
        logits = program.walk(_Draws(noisy), self._result)
        if not isinstance(logits, _Draws):
            raise ModelError("Expected a network that returns its logits alone, one tensor; wrap it so.")
        self._noted(LOGITS, logits.tensor, [_PLAIN])

    def _result(self, call: Call) -> Any:
        if BatchNorm.of(call) is not None:
            raise ModelError(
                "A BatchNorm without running statistics mixes the images of a batch, so that there are no "
                "moments of one image's logits. Build it with track_running_stats=True."
            )
        plain = call.mapped(lambda draws: draws.tensor)
        self.operations[call.node.name] = call.step.kind
        device = plain.input.device
        start = now(device)
        value = plain.compute()
        taken = now(device) - start
        noted = self._noted(call.node.name, value, call.step.outputs)
        if isinstance(noted, _Draws):
            known = self.seconds.get(call.node.name, math.inf)
            self.seconds[call.node.name] = min(known, taken / len(noted.tensor))
        return noted

    def _noted(self, key: str, value: Any, layouts: Sequence[Layout]) -> Any:
        if isinstance(value, list | tuple):
            parts = enumerate(zip(value, layouts, strict=True))
            return [self._noted(part_of(key, index), item, [layout]) for index, (item, layout) in parts]
        stored = layouts[0].stored_of(value)
        if key not in self.tallies:
            self.tallies[key] = _Tally(stored.mean(0))
        self.tallies[key].add(stored)
        return _Draws(value)


@dataclass
class _Tally:
    """Running sums in float64, of differences to a pivot so that little is lost of small variances."""

    pivot: Tensor
    total: Tensor | float = 0.0
    square: Tensor | float = 0.0
    count: int = 0

    def add(self, values: Tensor) -> None:
        apart = values - self.pivot
        # A few hundred at a time are summed as they are: nine times as fast as in float64.
        self.total = self.total + apart.sum(0).double()
        self.square = self.square + apart.square().sum(0).double()
        self.count += len(values)

    def moments(self) -> Sampled:
        apart = torch.as_tensor(self.total) / self.count
        variance = (torch.as_tensor(self.square) - self.count * apart.square()) / (self.count - 1)
        return Sampled(self.pivot + apart, variance.clamp_min(0))
