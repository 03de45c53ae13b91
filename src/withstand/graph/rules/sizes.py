"""Sizes as torch takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor

from withstand.graph.rule_registry import Site

Numbers: TypeAlias = int | Sequence[int]


def per_dimension(numbers: Numbers, rank: int) -> Sequence[int]:
    """One number for each of ``rank`` dimensions."""
    given = [numbers] if isinstance(numbers, int) else [*numbers]
    return given * rank if len(given) == 1 else given


def rank_of(site: Site) -> int:
    """Over how many dimensions an operator of images goes: 2 of ``aten.avg_pool2d``."""
    return next(int(sign) for sign in site.operation if sign.isdigit())


def on_channels(values: Tensor, rank: int) -> Tensor:
    """One value a channel, shaped to broadcast over images of that rank."""
    return values.reshape(-1, *[1] * rank)


def require_images(site: Site, rank: int) -> None:
    """Refuses what is not (batch, channels, …) with so many dimensions after.

    Raises:
        UnsupportedOperationError: it is not.
    """
    layout = site.layouts[0]
    if not layout.is_plain or len(layout.stored) != rank + 1:
        raise site.refusal(
            f"knows images (batch, channels, …) of {rank} dimensions, but here each example is "
            f"{layout.stored}, or the batch is not the first dimension; take reshape and permute."
        )
