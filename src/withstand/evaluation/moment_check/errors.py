"""How far analytic moments are from sampled ones, in numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from withstand.evaluation.moment_check.check_settings import Method
from withstand.evaluation.moment_check.noisy_passes import Sampled
from withstand.results.analytic import MomentsError, MomentsMethod, StdRatio

_LEAST = 1e-6  # deviation of a logit, relative, below which it does not move at all
_POINTS = 300


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
) -> MomentsMethod:
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
        ratios = (own / unit).quantile(levels).tolist()
        ratio = StdRatio(*ratios) if all(map(math.isfinite, ratios)) else None
        count = min(most_points, len(unit))
        picked = torch.linspace(0, len(unit) - 1, count, dtype=torch.float64).round().long().to(unit.device)
        points = list(zip(unit[picked].tolist(), own[picked].tolist(), strict=True))
    return MomentsMethod(
        name=method,
        mean_error=error,
        std_ratio=ratio,
        seconds=seconds,
        matching_samples=matching,
        speed_up=None if matching is None else matching * sample_seconds / seconds,
        full_speed_up=num_samples * sample_seconds / seconds,
        points=[point for point in points if all(map(math.isfinite, point))],
    )


def root_mean_square(layers: Sequence[MomentsError]) -> MomentsError:
    """Of several layers, each of which counts alike."""
    columns = zip(*(astuple(layer) for layer in layers), strict=True)
    known = [[value for value in column if value is not None] for column in columns]
    return MomentsError(
        *(math.sqrt(sum(v * v for v in values) / len(values)) if values else None for values in known)
    )


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

    def apart(self) -> MomentsError:
        """What the sums come to."""
        if not self.sampled:
            return MomentsError(None, None, None)
        shares = (self.mean, self.std, self.analytic)
        return MomentsError(*(_finite(math.sqrt(share / self.sampled)) for share in shares))


def _finite(value: Tensor | float) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
