"""Randomised smoothing: a guarantee of another classifier, the smoothed one, that holds with a probability.

The smoothed classifier answers with the class that the model gives most often to an image under Gaussian
noise. If that class has a probability above p > 1/2, no change of the image of l2 norm below
noise_std * Phi^-1(p) makes the smoothed classifier say another (Cohen, Rosenfeld and Kolter, "Certified
adversarial robustness via randomized smoothing", ICML 2019, theorem 1). p is bounded from draws, which errs
with the stated probability for each image. Nothing is said of the model itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
import scipy
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from withstand.core.answers import NO_ANSWER, predicted
from withstand.core.batch_shares import filled
from withstand.core.checks import as_images, check_images
from withstand.core.contract import adapted, outside_inference_mode
from withstand.core.modes import eval_mode
from withstand.core.setting_rules import AT_LEAST_0, COUNT, POSITIVE, PROBABILITY, list_of, optional, settle

__all__ = [
    "ABSTAINED",
    "Smoothed",
    "Smoothing",
    "lower_confidence_bound",
    "radius",
    "smoothed_radius",
]

ABSTAINED = NO_ANSWER
"""The prediction where the draws do not decide."""

_NUM_BUDGETS = 10


@dataclass(frozen=True)
class Smoothing:
    """How to smooth a classifier and how often to ask it.

    Args:
        noise_std: Of the Gaussian noise, in [0, 1] pixel units.
        num_selection: Draws an image that choose its class.
        num_estimation: Further draws that bound the class's probability.
        failure_probability: That an image's radius is larger than the true one.
        batch_rows: Noisy copies a pass; what is drawn does not depend on it.
        epsilons: l2 budgets to report certified accuracy at; by default ten, evenly spaced from 0 towards the
            largest radius that so many draws can prove.

    Raises:
        ValueError: a number is out of its range, or so few draws can prove nothing.
    """

    noise_std: float = 0.25
    num_selection: int = 100
    num_estimation: int = 1000
    failure_probability: float = 0.001
    batch_rows: int = 5000
    epsilons: list[float] | None = None

    def __post_init__(self) -> None:
        settle(
            self,
            noise_std=POSITIVE,
            num_selection=COUNT,
            num_estimation=COUNT,
            failure_probability=PROBABILITY,
            batch_rows=COUNT,
            epsilons=optional(list_of(AT_LEAST_0)),
        )
        if self.largest_radius == 0:
            needed = math.floor(-math.log2(self.failure_probability)) + 1
            raise ValueError(
                f"{self.num_estimation} draws prove nothing at a failure_probability of "
                f"{self.failure_probability:g}: set num_estimation to {needed} or more."
            )

    @property
    def largest_radius(self) -> float:
        """The radius of an image of which all draws agree."""
        lower = lower_confidence_bound(self.num_estimation, self.num_estimation, self.failure_probability)
        return float(radius(lower, self.noise_std))

    @property
    def budgets(self) -> list[float]:
        """The epsilons to report, ascending."""
        if self.epsilons is not None:
            return sorted(set(self.epsilons))
        return [step * self.largest_radius / _NUM_BUDGETS for step in range(_NUM_BUDGETS)]

    def describe(self) -> str:
        """A sentence of the settings and of what is guaranteed, for a report."""
        return (
            f"Randomised smoothing with Gaussian noise of noise_std {self.noise_std:g}: "
            f"{self.num_selection} draws choose the class of an image, {self.num_estimation} others bound "
            "its probability from below (Clopper-Pearson). It is the smoothed classifier, which answers with "
            "the class most frequent under noise, that gives this answer to every input closer in l2 than "
            f"the radius, for each image with probability {1 - self.failure_probability:.10g}; the model "
            "itself is not certified. Noisy images are not clipped, since the guarantee is for Gaussian noise"
        )


class Smoothed(NamedTuple):
    """The answers of the smoothed classifier of a batch, each a tensor (batch,) on the images' device.

    Attributes:
        prediction: int64: the class, or ``ABSTAINED``.
        radius: float64: no change of smaller l2 norm makes it another class, unless the draws misled; 0
            where it abstains.
        successes: int64: in how many of the estimation's draws the answer was the class that selection chose.
        unanswered: int64: in how many of all draws the model answered NaN or infinity, which is no vote.
    """

    prediction: Tensor
    radius: Tensor
    successes: Tensor
    unanswered: Tensor


def lower_confidence_bound(
    successes: ArrayLike, trials: int, failure_probability: float
) -> NDArray[np.float64]:
    """A bound that is above the true chance of success with at most the stated probability.

    Clopper and Pearson (Biometrika 1934), one-sided.

    Args:
        successes: Of independent trials, 0 to ``trials``; of any shape.
        trials: At least 1.
        failure_probability: Between 0 and 1.

    Returns:
        Array of the shape of ``successes``, in [0, 1); 0 where there is no success.
    """
    counts = np.asarray(successes)
    bounds = scipy.stats.beta.ppf(failure_probability, np.maximum(counts, 1), trials - counts + 1)
    return np.where(counts > 0, bounds, 0.0)


def radius(lower: ArrayLike, noise_std: float) -> NDArray[np.float64]:
    """The l2 radius within which the class stays the most frequent one: noise_std * Phi^-1(lower).

    Args:
        lower: Bounds from below on the probability of the class under noise, in [0, 1]; of any shape.
        noise_std: Of the noise.

    Returns:
        Array of the shape of ``lower``; 0 where the bound is at most 1/2.
    """
    return noise_std * scipy.special.ndtri(np.maximum(lower, 0.5))


@outside_inference_mode()
@torch.no_grad()
def smoothed_radius(
    model: nn.Module,
    images: Tensor,
    *,
    settings: Smoothing,
    generator: torch.Generator,
    is_random: bool = False,
) -> Smoothed:
    """Asks a model about noisy copies of each image, and bounds how far the answer holds.

    An image's logits must not depend on what else is in the batch: draws would not be independent. The
    model is asked in eval mode.

    Args:
        model: Maps images to logits (batch, classes); it is handed images beyond [0, 1].
        images: Float tensor (batch, …) in [0, 1].
        settings: The noise, how many draws, and how sure to be.
        generator: Of the noise, on the images' device.
        is_random: Whether the model draws its answers. Then no two copies of an image share a pass, since
            they may share what the model draws; what is smoothed is its mean answer over these draws, too.

    Raises:
        DataError: the images are no floats in [0, 1].
        ModelError: the model fails on them, or gives no logits.
    """
    images = as_images(images)
    check_images(images)
    images = images.to(torch.promote_types(images.dtype, torch.float32))  # noise has its digits
    model = adapted(model, images)
    copies = 1 if is_random else max(1, settings.batch_rows // max(1, len(images)))
    noisy = _Noisy(model, images, settings, generator, copies)
    with eval_mode(model):
        votes = _votes(noisy.logits(settings.num_selection))
        choice = votes.argmax(dim=1)
        unanswered = settings.num_selection - votes.sum(dim=1)
        successes = torch.zeros_like(choice)
        for logits in noisy.logits(settings.num_estimation):
            answers = predicted(logits, dim=2)
            successes += (answers == choice).sum(dim=0)
            unanswered += (answers == NO_ANSWER).sum(dim=0)
    lower = lower_confidence_bound(
        successes.cpu().numpy(), settings.num_estimation, settings.failure_probability
    )
    radii = torch.from_numpy(radius(lower, settings.noise_std)).to(images.device)
    return Smoothed(choice.where(radii > 0, ABSTAINED), radii, successes, unanswered)


@dataclass(frozen=True)
class _Noisy:
    """A model that is asked about noisy copies of images, so many of each a pass."""

    model: nn.Module
    images: Tensor
    settings: Smoothing
    generator: torch.Generator
    copies: int

    def logits(self, num_draws: int) -> Iterator[Tensor]:
        """Its logits (copies, batch, classes), until there are as many copies as draws."""
        for done in range(0, num_draws, self.copies):
            copies = [self._copy() for _ in range(min(self.copies, num_draws - done))]
            rows = torch.split(torch.cat(copies), self.settings.batch_rows)
            answers = torch.cat([self.model(part) for part in rows])
            yield answers.reshape(len(copies), len(self.images), -1)

    def _copy(self) -> Tensor:
        # Each alike, however many.
        noise = filled(self.images, lambda rows: rows.normal_(generator=self.generator))
        return noise.mul_(self.settings.noise_std).add_(self.images)


def _votes(answers: Iterable[Tensor]) -> Tensor:
    """How many of the logits (copies, batch, classes) are for each class: int64 (batch, classes)."""
    shifted = ((predicted(logits, dim=2) - NO_ANSWER, logits.shape[2] + 1) for logits in answers)
    return reduce(torch.add, (F.one_hot(*of).sum(dim=0) for of in shifted))[:, 1:]
