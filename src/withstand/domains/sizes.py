"""Sizes as torch takes them: one number for all dimensions, or one for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

__all__ = ["Numbers", "each"]

Numbers: TypeAlias = int | Sequence[int]


def each(numbers: Numbers, rank: int) -> Sequence[int]:
    """One number for each of ``rank`` dimensions."""
    given = [numbers] if isinstance(numbers, int) else [*numbers]
    return given * rank if len(given) == 1 else given
