"""Timing of alternatives side by side, so that a busy machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

__all__ = ["interleaved", "training_step"]


def interleaved(pieces: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """The median seconds of each piece, taken in turns after one warm-up.

    Args:
        pieces: Name -> what to time.
        rounds: How often to time each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in pieces}
    for number in range(rounds + 1):
        for name, piece in pieces.items():
            started = time.perf_counter()
            piece()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def training_step(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """A step of an optimiser on a loss, to be timed.

    Args:
        optimizer: Of the weights that the loss depends on.
        loss: Computes it anew.
    """

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step
