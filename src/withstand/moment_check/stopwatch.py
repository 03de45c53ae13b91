"""Seconds of wall clock, also where work is queued on an accelerator."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

_Result = TypeVar("_Result")

_MOST_RUNS = 3
_SHORT = 0.05  # seconds; what takes longer is run once


def now(device: torch.device) -> float:
    """The time at which a device has done all that it was given, in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
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
