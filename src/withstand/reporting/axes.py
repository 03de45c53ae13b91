"""Logarithmic axes with ticks that are written out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["logarithmic"]

# Decades at most -> the digits that have a tick in each.
_TICKS = {1.0: (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0), 3.0: (1.0, 2.0, 5.0)}
_MOST_POWERS = 8


def logarithmic(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis around positive values, with ticks that are written out."""
    lowest, highest = (math.log10(value) for value in (min(values) / 1.25, max(values) * 1.25))
    decades = highest - lowest
    digits = next((digits for most, digits in _TICKS.items() if decades <= most), (1.0,))
    step = math.ceil(decades / _MOST_POWERS)
    powers = range(math.floor(lowest), math.ceil(highest) + 1, step)
    ticks = [float(f"{digit}e{power}") for power in powers for digit in digits]
    ticks = [tick for tick in ticks if lowest <= math.log10(tick) <= highest]
    return {
        "type": "log",
        "rangemode": "normal",
        "range": [lowest, highest],
        "tickmode": "array",
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }
