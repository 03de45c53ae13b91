"""How far analytic moments are from sampled ones, in numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from withstand.moment_check.sampling import Sampled
from withstand.moment_check.settings import Method

_LEAST = 1e-6  # deviation of a logit, relative, below which it does not move at all
_POINTS = 300


class Ratio(NamedTuple):
    """Analytic deviation divided by the sampled one, over images and classes."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class MethodResult:
    """What one analytic form makes of the logits at one noise level.

    Attributes:
        name: Of ``METHODS``.
        reason: Why it was not tried; None where it was, and then the numbers below are there.
        mean_error: Root mean square over images and classes of (analytic - sampled mean) / sampled
            deviation. It holds the samples' own error, 1 / √num_samples.
        std_ratio: 5 % quantile, median and 95 % quantile; None of a form that gives means alone.
        seconds: Of wall clock, an image.
        matching_samples: How many draws have a mean as far off: 1 / mean_error², at most num_samples.
        speed_up: Time of those draws / time of the analytic form; below 1 the draws are faster.
        full_speed_up: Time of num_samples draws / time of the analytic form.
        points: (sampled, analytic) deviation of some logits, spread over all.
    """

    name: Method
    reason: str | None = None
    mean_error: float | None = None
    std_ratio: Ratio | None = None
    seconds: float | None = None
    matching_samples: float | None = None
    speed_up: float | None = None
    full_speed_up: float | None = None
    points: Sequence[tuple[float, float]] = ()


def compare_logits(
    method: Method,
    mean: Tensor,
    variance: Tensor | None,
    sampled: Sampled,
    *,
    seconds: float,
    sample_seconds: float,
    num_samples: int,
    most_points: int = _POINTS,
) -> MethodResult:
    """Holds a method's logits against sampled ones.

    Args:
        method: Its name.
        mean: Tensor (images, classes).
        variance: Likewise; None where it gives none.
        sampled: Of the same logits.
        seconds: The method's, an image.
        sample_seconds: Of one draw.
        num_samples: How many draws there were.
        most_points: How many points to keep.

    Returns:
        Numbers that are finite, or None where no logit moves or the method gives none.
    """
    std = sampled.variance.sqrt()
    moves = std > _LEAST * (1 + sampled.mean.abs())
    unit = std[moves]
    error = _finite(((mean.double() - sampled.mean)[moves] / unit).square().mean().sqrt())
    matching = None if error is None else min(num_samples, 1 / max(error, 1e-9) ** 2)
    ratio, points = None, []
    if variance is not None and unit.numel():
        own = variance.double().expand_as(std).sqrt()[moves]
        levels = torch.tensor([0.05, 0.5, 0.95], dtype=own.dtype, device=own.device)
        found = (own / unit).quantile(levels).tolist()
        ratio = Ratio(*found) if all(map(math.isfinite, found)) else None
        count = min(most_points, len(unit))
        picked = torch.linspace(0, len(unit) - 1, count, dtype=torch.float64).round().long().to(unit.device)
        points = list(zip(unit[picked].tolist(), own[picked].tolist(), strict=True))
    return MethodResult(
        name=method,
        mean_error=error,
        std_ratio=ratio,
        seconds=seconds,
        matching_samples=matching,
        speed_up=None if matching is None else matching * sample_seconds / seconds,
        full_speed_up=num_samples * sample_seconds / seconds,
        points=[point for point in points if all(map(math.isfinite, point))],
    )


class Apart(NamedTuple):
    """How far moments of a layer's output are apart.

    Attributes:
        mean_error: √(Σ (analytic - sampled mean)² / Σ sampled variance), over images and coordinates.
        std_error: √(Σ (analytic - sampled deviation)² / Σ sampled variance).
        std_ratio: √(Σ analytic variance / Σ sampled variance).
    """

    mean_error: float | None
    std_error: float | None
    std_ratio: float | None

    @classmethod
    def root_mean_square(cls, layers: Sequence[Apart]) -> Apart:
        """Of several layers, each of which counts alike."""
        columns = [[value for value in column if value is not None] for column in zip(*layers, strict=True)]
        return cls(*(math.sqrt(sum(v * v for v in each) / len(each)) if each else None for each in columns))


@dataclass
class Tally:
    """Sums of one layer over images and coordinates."""

    mean: float = 0.0
    std: float = 0.0
    analytic: float = 0.0
    sampled: float = 0.0

    def add(self, mean: Tensor, variance: Tensor, sampled: Sampled) -> None:
        """Counts some images."""
        spread = variance.double().expand_as(sampled.mean)
        self.mean += float((mean.double() - sampled.mean).square().sum())
        self.std += float((spread.sqrt() - sampled.variance.sqrt()).square().sum())
        self.analytic += float(spread.sum())
        self.sampled += float(sampled.variance.sum())

    def apart(self) -> Apart:
        """What the sums come to."""
        if not self.sampled:
            return Apart(None, None, None)
        shares = (self.mean, self.std, self.analytic)
        return Apart(*(_finite(math.sqrt(share / self.sampled)) for share in shares))


def _finite(value: Tensor | float) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
