"""Many weight samples in one pass, the predictor that averages them, and how unsure they are.

The entropy of the mean prediction is what is uncertain in all; the mean entropy of the single draws is what
every draw finds uncertain; the rest, the mutual information of answer and weights, is where draws disagree
(Depeweg et al., "Decomposition of uncertainty in Bayesian deep learning", ICML 2018).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from withstand.bayes.layer import Copies, Drawing, drawing, warn_of_idle_layers
from withstand.core.checks import require_at_least
from withstand.core.setting_rules import COUNT
from withstand.loss.passes import logits_of

_MOST_ROWS = 5000  # of one pass that keeps no graph


def in_blocks(images: Tensor, num_samples: int) -> tuple[Tensor, Drawing]:
    """A batch once for each weight sample, and what the layers must draw for it.

    Args:
        images: Tensor (batch, …).
        num_samples: At least 1.

    Returns:
        Tensor (num_samples * batch, …), sample by sample; and the argument of ``drawing``. Its ``copies``
        let a layer look at the first block alone: whoever differentiates with respect to the repeated
        images, and not to those given here, sets them to None.

    Raises:
        ValueError: there is no sample.
    """
    require_at_least(1, num_samples=num_samples)
    if num_samples == 1:
        return images, Drawing()
    repeated = images.repeat(num_samples, *[1] * (images.dim() - 1))
    return repeated, Drawing(num_samples, len(repeated), Copies(images.device))


def sample_logits(model: nn.Module, images: Tensor, num_samples: int) -> Tensor:
    """The logits under several draws of the weights, in one pass over a repeated batch.

    Until the first random layer all copies are alike, so that what that layer computes of its input is
    computed once. Random layers that the model never calls, so that nothing of them is drawn, are named in a
    warning.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes); its random layers draw.
        images: Tensor (batch, …).
        num_samples: Draws of the weights, at least 1.

    Returns:
        Tensor (num_samples, batch, classes), with gradient.
    """
    repeated, how = in_blocks(images, num_samples)
    with drawing(model, how):
        logits = logits_of(model, repeated)
    warn_of_idle_layers(model)
    return logits.reshape(num_samples, len(images), logits.shape[1])


class Predictor(nn.Module):
    """The mean probability over draws of the weights, as a network of its own.

    It answers with the logarithm of that probability, whose softmax is the probability again: so an attack
    on it climbs the loss of the mean probability, with the gradient averaged over the draws as the answer is
    (expectation over transformation; Athalye et al., ICML 2018). Every call draws anew.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes).
        num_samples: Draws of the weights, at least 1.
    """

    gives_log_probabilities = True

    def __init__(self, model: nn.Module, num_samples: int) -> None:
        super().__init__()
        num_samples = COUNT("num_samples", num_samples)
        self.model = model
        self.num_samples = num_samples

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Tensor (batch, classes) of images (batch, …)."""
        at_once = self.num_samples
        if not torch.is_grad_enabled():
            at_once = min(at_once, max(1, _MOST_ROWS // max(1, len(images))))
        parts = [
            sample_logits(self.model, images, min(at_once, self.num_samples - done))
            for done in range(0, self.num_samples, at_once)
        ]
        logs = torch.cat(parts).log_softmax(dim=2)
        return logs.logsumexp(dim=0) - math.log(self.num_samples)

    @override
    def extra_repr(self) -> str:
        return f"num_samples={self.num_samples}"


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
    ranks = scipy.stats.rankdata(np.concatenate([of_others, scores]))[: len(of_others)]
    num_above = ranks.sum() - len(of_others) * (len(of_others) + 1) / 2
    return float(num_above / (len(of_others) * len(scores)))


def histogram(values: NDArray[np.float64], edges: NDArray[np.float64]) -> list[int]:
    """How many values lie in each bin; those that rounding put beyond the edges in the nearest."""
    counts, _ = np.histogram(values.clip(edges[0], edges[-1]), bins=edges)
    return [int(count) for count in counts]
