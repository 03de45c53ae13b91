"""What is held against samples, and against how many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from withstand.core.noise import GaussianNoise
from withstand.core.setting_rules import AT_LEAST_0, COUNT, POSITIVE, Whole, list_of, settle
from withstand.core.suggest import nearest

Method: TypeAlias = Literal["first-activation", "diagonal", "factored", "full"]
METHODS: Sequence[Method] = get_args(Method)
"""The published form (means alone), then the domains Gaussian, FactoredGaussian and CorrelatedGaussian."""


@dataclass(frozen=True)
class MomentSettings:
    """How to hold analytic moments against samples.

    Args:
        noise_std: Levels of the noise at each pixel, in [0, 1] units, each above 0.
        num_examples: Look at so many images.
        num_samples: Noise draws an image and level.
        methods: Which analytic forms, of ``METHODS``.
        blur: Width in pixels of the filter through which the noise is seen; 0 leaves it white.
        most_coordinates: Of the widest layer, for which the whole covariance matrix is still tried.

    Raises:
        ValueError: a number is out of its range, or there is no such method.
    """

    noise_std: Sequence[float] = (0.05, 0.1, 0.2, 0.4)
    num_examples: int = 3
    num_samples: int = 1000
    methods: Sequence[Method] = METHODS
    blur: float = 0.0
    most_coordinates: int = 2000

    def __post_init__(self) -> None:
        settle(
            self,
            noise_std=list_of(POSITIVE),
            num_examples=COUNT,
            num_samples=Whole(least=2),
            blur=AT_LEAST_0,
            most_coordinates=Whole(least=0),
        )
        if not self.methods:
            raise ValueError(f"Expected at least one method, of {', '.join(METHODS)}, but got none.")
        for method in self.methods:
            if method not in METHODS:
                raise ValueError(f"There is no analytic form {method!r}; {nearest(method, METHODS)}")
        self.noise(self.noise_std[0])

    def noise(self, std: float) -> GaussianNoise:
        """The noise of a level."""
        return GaussianNoise(std, self.blur)

    def describe(self) -> str:
        """A sentence of the settings, for a report."""
        blurred = f" seen through a filter of {self.blur:g} pixels" if self.blur else ""
        return (
            f"{self.num_samples:,} draws of Gaussian noise{blurred} around each of "
            f"{self.num_examples:,} test images at every level, the same draws scaled; sums in float64, all "
            "else in float32; times of one process, each at the batch size that suits it, the best of a "
            "few runs; that of first-activation holds the pass without noise"
        )
