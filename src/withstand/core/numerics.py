"""Seeds and arithmetic that make training and evaluation repeatable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Literal

import torch

Precision = Literal["fp32", "tf32", "bf16", "fp16"]


def seed_of(seed: int, index: int) -> int:
    """A seed of its own for each epoch or batch; the multiplier is prime, so that near seeds never meet."""
    return (seed * 1_000_003 + index) % 2**63


def preserved_random_state(device: torch.device) -> AbstractContextManager[None]:
    """Torch's random state of the CPU and of a CUDA device, as it was, afterwards."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


@contextmanager
def without_autocast() -> Iterator[None]:
    """Turns autocast off on whatever device it is on.

    Figures hold for the model as it is; and of bounds, moments and gradients of images rounding would leave
    little.

    Yields:
        Nothing.
    """
    with ExitStack() as stack:
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def numerics(precision: Precision) -> Iterator[None]:
    """Repeatable kernels and the precision asked for; as they were before, afterwards."""
    matmul = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    former = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        cudnn.deterministic, cudnn.benchmark = True, False
        cudnn.allow_tf32 = precision == "tf32"
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = former
