"""The noise of an objective at a time of its training."""

from __future__ import annotations

from collections.abc import Sequence

from withstand.noise import GaussianNoise
from withstand.schedules import Schedule, value_at

__all__ = ["noise_at"]


def noise_at(noise_std: float | Sequence[float] | Schedule, blur: float, progress: float) -> GaussianNoise:
    """The noise after so many epochs.

    Args:
        noise_std: One for all channels, one a channel, or a schedule of one for all.
        blur: Width of its filter in pixels.
        progress: Epochs done.

    Raises:
        ValueError: a number is out of its range.
    """
    std = list(noise_std) if isinstance(noise_std, Sequence) else value_at(noise_std, progress)
    return GaussianNoise(std, blur)
