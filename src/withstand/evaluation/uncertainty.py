"""How sure a model with random weights is of its answers, and whether rightly.

The entropy of the mean prediction is what is uncertain in all; the mean entropy of the single draws is what
every draw finds uncertain; the rest, the mutual information of answer and weights, is where draws disagree
(Depeweg et al., "Decomposition of uncertainty in Bayesian deep learning", ICML 2018).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from withstand.evaluation.calibration import CALIBRATION_BINS, reliability

__all__ = [
    "Entropies",
    "Uncertainty",
    "auroc",
    "calibration_error",
    "entropies",
    "histogram",
]


@dataclass(frozen=True)
class Uncertainty:
    """How to measure the uncertainty of a net with random weights.

    Args:
        num_samples: Draws of the weights an image.
        out_of_distribution: Other data sets whose test images are looked at as well, such as
            fashion-mnist; their images must have the shape of the scored ones.
        num_bins: Of the histograms, from 0 to the logarithm of the number of classes.

    Raises:
        ValueError: a number is out of its range.
    """

    num_samples: int = 50
    out_of_distribution: list[str] = field(default_factory=list)
    num_bins: int = 40

    def __post_init__(self) -> None:
        for name, count in (("num_samples", self.num_samples), ("num_bins", self.num_bins)):
            if count < 1:
                raise ValueError(f"Expected {name} of the uncertainty of at least 1, but got {count}.")

    def describe(self) -> str:
        """A sentence of the settings, for a report."""
        draws = "one draw" if self.num_samples == 1 else f"{self.num_samples} draws"
        return (
            f"Entropies in nats over {draws} of the weights an image: of the mean prediction, the mean of "
            "those of the draws, and the difference, which is the mutual information of answer and weights; "
            "the calibration error is that of 15 bins of confidence; of an attack the images are those that "
            "its accuracy is counted on, so one that fell at a smaller epsilon or without an attack counts "
            "as it is"
        )


class Entropies(NamedTuple):
    """The uncertainty of a batch, in nats, each a float64 tensor (batch,).

    Attributes:
        predictive: Entropy of the mean prediction.
        expected: Mean entropy of the predictions.
        mutual_information: Their difference, at least 0.
    """

    predictive: Tensor
    expected: Tensor
    mutual_information: Tensor


def entropies(log_probabilities: Tensor) -> Entropies:
    """The entropy of the mean prediction, and its parts.

    Args:
        log_probabilities: Tensor (samples, batch, classes), of at least one sample.
    """
    probabilities = log_probabilities.double().exp()
    predictive = _entropy(probabilities.mean(dim=0))
    expected = _entropy(probabilities).mean(dim=0)
    return Entropies(predictive, expected, (predictive - expected).clamp(min=0.0))


def _entropy(probabilities: Tensor) -> Tensor:
    """Of distributions in the last dimension; an impossible class adds nothing."""
    terms: Tensor = torch.special.entr(probabilities)
    return terms.sum(dim=-1)


def calibration_error(
    confidence: NDArray[np.float64], is_right: NDArray[np.bool_], num_bins: int = CALIBRATION_BINS
) -> float:
    """The expected calibration error: how far confidence is from accuracy, weighted by how often.

    Guo et al., "On calibration of modern neural networks" (ICML 2017), eq. 3: bins of equal width, each
    open below and closed above.

    Args:
        confidence: The probability of each prediction (examples,), at least one.
        is_right: Whether it is right (examples,).
        num_bins: Of the confidence.

    Returns:
        In [0, 1].
    """
    return reliability(confidence, is_right, num_bins).error


def auroc(scores: NDArray[np.float64], of_others: NDArray[np.float64]) -> float:
    """The chance that a random example of others has the larger score; a tie counts half.

    Args:
        scores: Of one set (examples,), at least one.
        of_others: Of the other set (others,), at least one.

    Returns:
        In [0, 1]; one half where the scores do not tell the sets apart.
    """
    ranks = rankdata(np.concatenate([of_others, scores]))[: len(of_others)]
    num_above = ranks.sum() - len(of_others) * (len(of_others) + 1) / 2
    return float(num_above / (len(of_others) * len(scores)))


def histogram(values: NDArray[np.float64], edges: NDArray[np.float64]) -> list[int]:
    """How many values lie in each bin; those that rounding put beyond the edges in the nearest."""
    counts, _ = np.histogram(values.clip(edges[0], edges[-1]), bins=edges)
    return [int(count) for count in counts]
