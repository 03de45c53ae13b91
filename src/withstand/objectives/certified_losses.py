"""Losses of the worst logits. Each maps (differences (batch, classes), labels (batch,)) to a scalar.

``differences`` are bounds on each logit minus the true one, so that the true class's is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["GeneralizedCrossEntropy", "SymmetricCrossEntropy", "boosted_cross_entropy"]

_ABOVE_ONE = 1.0001  # as published: keeps the logarithm finite where a wrong class has all the mass


def boosted_cross_entropy(differences: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy and -log(1 - p) of the likeliest wrong class (Wang et al., MART, ICLR 2020).

    Args:
        differences: Tensor (batch, classes).
        labels: Integer tensor (batch,).

    Returns:
        Scalar tensor, the mean over the batch.
    """
    probabilities = differences.softmax(dim=1)
    wrong = probabilities.scatter(1, labels[:, None], 0.0).amax(dim=1)
    return F.cross_entropy(differences, labels) - torch.log(_ABOVE_ONE - wrong).mean()


@dataclass(frozen=True)
class GeneralizedCrossEntropy:
    """(1 - p^q) / q of the true class (Zhang & Sabuncu, NeurIPS 2018).

    It is cross-entropy as q -> 0 and 1 - p at q = 1. An example whose worst logits are hopeless
    pulls less on the weights the larger q is, so that capacity goes to those that can be certified.

    Args:
        exponent: q, in (0, 1].

    Raises:
        ValueError: the exponent is out of its range.
    """

    exponent: float

    def __post_init__(self) -> None:
        if not 0 < self.exponent <= 1:
            raise ValueError(f"Expected an exponent in (0, 1], but got {self.exponent}.")

    def __call__(self, differences: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch.

        Args:
            differences: Tensor (batch, classes).
            labels: Integer tensor (batch,).
        """
        log_likelihood = -F.cross_entropy(differences, labels, reduction="none")
        # 1 - p^q = -expm1(q log p), which keeps its digits where p is nearly 1.
        return -torch.expm1(self.exponent * log_likelihood).mean() / self.exponent


@dataclass(frozen=True)
class SymmetricCrossEntropy:
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
        if not 0 <= self.share <= 1:
            raise ValueError(f"Expected a share in [0, 1], but got {self.share}.")

    def __call__(self, differences: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch.

        Args:
            differences: Tensor (batch, classes).
            labels: Integer tensor (batch,).
        """
        losses = F.cross_entropy(differences, labels, reduction="none")
        # 1 - p = -expm1(log p), which keeps its digits where p is nearly 1.
        return ((1 - self.share) * losses - self.share * torch.expm1(-losses)).mean()
