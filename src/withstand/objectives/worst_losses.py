"""Losses of the worst logits that a bound allows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from withstand.core.setting_rules import SHARE, settle

_ABOVE_ONE = 1.0001  # as published: keeps the logarithm finite where a wrong class has all the mass


class WorstLoss(ABC):
    """The interface of a loss of the worst logits."""

    @abstractmethod
    def __call__(self, differences: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch.

        Args:
            differences: Bounds on each logit minus the true one, (batch, classes); 0 for the true class.
            labels: Integer tensor (batch,).

        Returns:
            Scalar tensor.
        """


@dataclass(frozen=True)
class WorstCrossEntropy(WorstLoss):
    """Cross-entropy, as published."""

    @override
    def __call__(self, differences: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(differences, labels)


@dataclass(frozen=True)
class BoostedCrossEntropy(WorstLoss):
    """Cross-entropy and -log(1 - p) of the likeliest wrong class (Wang et al., MART, ICLR 2020)."""

    @override
    def __call__(self, differences: Tensor, labels: Tensor) -> Tensor:
        probabilities = differences.softmax(dim=1)
        wrong = probabilities.scatter(1, labels[:, None], 0.0).amax(dim=1)
        return F.cross_entropy(differences, labels) - torch.log(_ABOVE_ONE - wrong).mean()


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
    def __call__(self, differences: Tensor, labels: Tensor) -> Tensor:
        losses = F.cross_entropy(differences, labels, reduction="none")
        # 1 - p = -expm1(log p), which keeps its digits where p is nearly 1.
        return ((1 - self.share) * losses - self.share * torch.expm1(-losses)).mean()
