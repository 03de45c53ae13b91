"""Moments by numerical integration, to hold closed forms against."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import pytest
import torch
from scipy import integrate
from torch import Tensor

Integrated: TypeAlias = Callable[..., tuple[float, float]]

_FARTHEST = 12.0  # standard deviations, beyond which there is 1e-33


def integrated(
    function: Callable[[Tensor], Tensor], mean: float, std: float, *, kinks: Sequence[float] = ()
) -> tuple[float, float]:
    """Mean and variance of a function of a normal variable, the variance without a difference of moments.

    By Gauss-Legendre quadrature from kink to kink: what is nowhere negative keeps all of its digits.

    Args:
        function: Elementwise, smooth between its kinks.
        mean: Of the normal variable.
        std: Of the normal variable.
        kinks: Where the function bends.
    """
    bends = [(kink - mean) / std for kink in kinks if abs(kink - mean) < _FARTHEST * std]
    breaks = sorted([*torch.linspace(-_FARTHEST, _FARTHEST, 13).tolist(), *bends])

    def expected(of: Callable[[Tensor], Tensor]) -> float:
        def weighted(h: Any, /) -> Any:
            points = torch.as_tensor(h)
            density = torch.exp(-points * points / 2) / math.sqrt(2 * math.pi)
            return (of(function(mean + std * points)) * density).numpy()

        pieces = [integrate.fixed_quad(weighted, *ends, n=40) for ends in pairwise(breaks)]
        return math.fsum(float(value) for value, _ in pieces)

    center = float(function(torch.tensor(mean, dtype=torch.float64)))
    first = center + expected(lambda value: value - center) if center else expected(lambda value: value)
    return first, expected(lambda value: (value - first).square())


@pytest.fixture(scope="session", name="integrated")
def _integrated() -> Integrated:
    """Mean and variance of f(z): ``(function, mean, std, kinks=())``."""
    return integrated
