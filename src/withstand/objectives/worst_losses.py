"""Losses of the worst logits that a bound allows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from withstand.core.numerics import at_least_float32
from withstand.core.setting_rules import AT_LEAST_0, POSITIVE, SHARE, settle

_TINY = 1e-30  # what is divided by where there is nothing
_ABOVE_ONE = 1.0001  # as published: keeps the logarithm finite where a wrong class has all the mass


class WorstLoss(ABC):
    """The interface of a loss of the worst logits."""

    @abstractmethod
    def __call__(self, differences: Tensor, labels: Tensor, clean: Tensor) -> Tensor:
        """The mean over the batch.

        Args:
            differences: Bounds on each logit minus the true one, (batch, classes); 0 for the true class.
            labels: Integer tensor (batch,).
            clean: Each logit minus the true one at the center of the set that the last layer is given,
                (batch, classes): those of the images, but of intervals, whose centers move.

        Returns:
            Scalar tensor.
        """


@dataclass(frozen=True)
class WorstCrossEntropy(WorstLoss):
    """Cross-entropy, as published."""

    @override
    def __call__(self, differences: Tensor, labels: Tensor, clean: Tensor) -> Tensor:
        return F.cross_entropy(differences, labels)


@dataclass(frozen=True)
class BoostedCrossEntropy(WorstLoss):
    """Cross-entropy and -log(1 - p) of the likeliest wrong class (Wang et al., MART, ICLR 2020)."""

    @override
    def __call__(self, differences: Tensor, labels: Tensor, clean: Tensor) -> Tensor:
        return boosted_cross_entropy(differences, labels)


def boosted_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean of cross-entropy and -log(1 - p) of the likeliest wrong class (Wang et al., ICLR 2020, eq. 8).

    Args:
        logits: Tensor (batch, classes), up to a constant of each row.
        labels: Integer tensor (batch,).
    """
    logits = at_least_float32(logits)
    probabilities = logits.softmax(dim=1)
    wrong = probabilities.scatter(1, labels[:, None], 0.0).amax(dim=1)
    return F.cross_entropy(logits, labels) - torch.log(_ABOVE_ONE - wrong).mean()


@dataclass(frozen=True)
class SymmetricCrossEntropy(WorstLoss):
    """(1 - share) times cross-entropy, and share times 1 - p (Wang et al., ICCV 2019).

    An example whose worst logits are hopeless pulls on the weights with its cross-entropy alone, so
    that most of what the network can do goes to those that can be certified. At a share of 1 training
    gives up whole classes.

    Args:
        share: In [0, 1].

    Raises:
        ValueError: the share is out of its range.
    """

    share: float

    def __post_init__(self) -> None:
        settle(self, share=SHARE)

    @override
    def __call__(self, differences: Tensor, labels: Tensor, clean: Tensor) -> Tensor:
        losses = F.cross_entropy(differences, labels, reduction="none")
        return ((1 - self.share) * losses + self.share * _unlikelihood(losses)).mean()


@dataclass(frozen=True)
class CappedCrossEntropy(WorstLoss):
    """Cross-entropy of worst logits that ask of no example more than it can give (Hu et al., NeurIPS 2023).

    The bound adds ``s_j = differences_j - clean_j`` to a wrong logit. Here class j gets only so much of it
    as it takes to draw level with the true one, ``s_j · min(1, max(0, -clean_j) / s_j)``, whose factor is no
    part of the gradient: an example that cannot be certified to the full epsilon is pushed at the radius
    that it has, and one that is answered wrongly learns its clean logits alone. In the ball domain that is
    efficient margin maximisation (EMMA), an epsilon of its own for each example and class.

    Args:
        share: In [0, 1], of 1 - p of the worst logits at the full epsilon beside it, as in
            ``SymmetricCrossEntropy``; more of it proves more, and answers less.

    Raises:
        ValueError: the share is out of its range.
    """

    share: float = 0.0

    def __post_init__(self) -> None:
        settle(self, share=SHARE)

    @override
    def __call__(self, differences: Tensor, labels: Tensor, clean: Tensor) -> Tensor:
        added = differences - clean
        reach = (-clean).detach().clamp_min(0)
        # Of the true class nothing is added; its 0 / 0 is taken as 0.
        factor = torch.where(added > reach, reach / added.detach().clamp_min(_TINY), added.new_ones(()))
        loss = F.cross_entropy(clean + factor * added, labels)
        if self.share == 0:
            return loss
        worst = F.cross_entropy(differences, labels, reduction="none")
        return (1 - self.share) * loss + self.share * _unlikelihood(worst).mean()


@dataclass(frozen=True)
class AnnealedCrossEntropy(WorstLoss):
    """``-T (1 - p)^beta log p`` of the worst logits over T (logit annealing, Lai et al., ICML 2025).

    p is the probability of the true class. Examples with a wide margin count for little, so that what the
    network can do goes to all of them instead of to a few of large margin.

    Args:
        temperature: T, positive.
        beta: At least 0; at 0 it is cross-entropy.

    Raises:
        ValueError: a number is out of its range.
    """

    temperature: float = 0.75
    beta: float = 5.0

    def __post_init__(self) -> None:
        settle(self, temperature=POSITIVE, beta=AT_LEAST_0)

    @override
    def __call__(self, differences: Tensor, labels: Tensor, clean: Tensor) -> Tensor:
        losses = F.cross_entropy(differences / self.temperature, labels, reduction="none")
        if self.beta == 0:
            return self.temperature * losses.mean()
        # A power below 1 has no derivative at 0.
        rest = _unlikelihood(losses).clamp_min(_TINY)
        return self.temperature * (rest**self.beta * losses).mean()


def _unlikelihood(losses: Tensor) -> Tensor:
    """1 - p by -log p, which keeps its digits where p is nearly 1."""
    return -torch.expm1(-losses)
