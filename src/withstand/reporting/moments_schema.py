"""The entry ``moments`` of ``metrics.json``."""

from __future__ import annotations

from typing import TypedDict

__all__ = [
    "Moments",
    "MomentsApart",
    "MomentsForm",
    "MomentsLayer",
    "MomentsLevel",
    "MomentsMethod",
    "StdRatio",
]


class StdRatio(TypedDict):
    """Analytic deviation of a logit over the sampled one: 5 % quantile, median, 95 % quantile."""

    low: float
    median: float
    high: float


class MomentsMethod(TypedDict):
    """One analytic form of the logits; ``reason`` says why it was not tried, and then the rest is null."""

    name: str
    reason: str | None
    mean_error: float | None
    std_ratio: StdRatio | None
    seconds: float | None
    matching_samples: float | None
    speed_up: float | None
    full_speed_up: float | None
    points: list[list[float]]


class MomentsApart(TypedDict):
    """How far a layer's outputs are off, in root mean square sampled deviations; null where none moves."""

    mean_error: float | None
    std_error: float | None
    std_ratio: float | None


class MomentsForm(TypedDict):
    """One analytic form in the layers of one type, and how many draws take as long."""

    accumulated: MomentsApart
    own: MomentsApart
    samples: float | None


class MomentsLayer(TypedDict):
    """The layers of one type."""

    operation: str
    count: int
    forms: dict[str, MomentsForm]


class MomentsLevel(TypedDict):
    """All that was found at one noise_std, in units of the images' [0, 1]."""

    noise_std: float
    sample_seconds: float
    methods: list[MomentsMethod]
    layers: list[MomentsLayer]


class Moments(TypedDict):
    """Analytic moments of logits under noise against sampled ones."""

    num_examples: int
    num_samples: int
    standard_error: float
    description: str
    levels: list[MomentsLevel]
