"""Seeds and arithmetic that make training and evaluation repeatable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch import Tensor

from withstand.core.devices import accelerator

Precision = Literal["fp32", "tf32", "bf16", "fp16"]


def seed_of(seed: int, index: int) -> int:
    """A seed of its own for each epoch or batch; the multiplier is prime, so that near seeds never meet."""
    return (seed * 1_000_003 + index) % 2**63


def at_least_float32(x: Tensor) -> Tensor:
    """Numbers in a precision in which probabilities near 1 can be told apart; as they are where they have it.

    Args:
        x: Float tensor, such as logits under autocast.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


@contextmanager
def without_autocast() -> Iterator[None]:
    """Turns autocast off on whatever device it is on.

    Figures hold for the model as it is; and of bounds, moments and gradients of images rounding would leave
    little.

    Yields:
        Nothing.
    """
    with ExitStack() as stack:
        here = accelerator()
        for kind in {"cpu", "cuda", *([] if here is None else [here.type])}:
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
