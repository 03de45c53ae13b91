"""How sure a model with random weights is of its answers, and of what it is unsure.

The entropy of the mean prediction is what is uncertain in all; the mean entropy of the single draws is what
every draw finds uncertain; the rest, the mutual information of answer and weights, is where draws disagree
(Depeweg et al., "Decomposition of uncertainty in Bayesian deep learning", ICML 2018).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor


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
