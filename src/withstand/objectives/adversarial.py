"""Adversarial training (Madry et al., ICLR 2018), to large epsilon where it is scheduled."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from withstand.attacks.attack import Attack, an_attack
from withstand.core.answers import is_correct
from withstand.core.schedules import slower
from withstand.loss.passes import Pass, logits_of
from withstand.loss.terms import OnePass
from withstand.objectives.label_loss import LabelLoss, WithLabelLoss
from withstand.types import LossTerms

LOSS_TERM = "adversarial"
ACCURACY_TERM = "adversarial_accuracy"


class UnderAttack(OnePass, ABC):
    """The interface of an objective of the images that an attack finds.

    The attack sees the model in eval mode and differentiates the images only, so BatchNorm
    statistics come from the training passes alone and no attack gradient reaches the weights.

    Args:
        attack: How to perturb the images.
    """

    def __init__(self, attack: Attack) -> None:
        super().__init__()
        self.attack: Attack = an_attack("attack", attack)

    def adversarial_images(self, passed: Pass, labels: Tensor, progress: float) -> Tensor:
        """What the attack finds, (batch, …).

        Args:
            passed: The model and the images.
            labels: Integer tensor (batch,).
            progress: Epochs done.
        """
        return passed.searched(
            self,
            lambda: self.attack.perturb(passed.model, passed.images, labels, progress=progress),
        )

    def attack_terms(
        self, logits: Tensor, labels: Tensor, progress: float, loss: Tensor | None = None
    ) -> dict[str, Tensor]:
        """What the attack came to, for the log; by the same names in all objectives, as ``collapse`` asks.

        Args:
            logits: Of the adversarial images, (batch, classes).
            labels: Integer tensor (batch,).
            progress: Epochs done.
            loss: The cross-entropy of these, where it is known.
        """
        if loss is None:
            loss = F.cross_entropy(logits.detach(), labels)
        return {
            LOSS_TERM: loss.detach(),
            ACCURACY_TERM: is_correct(logits, labels).float().mean(),
            "epsilon": loss.new_full((), self.attack.epsilon_at(progress)),  # without a copy from the host
        }

    @override
    def slow_down(self, at: float) -> bool:
        is_easier = slower(self.attack.epsilon, at) is not None
        if is_easier:
            self.attack = self.attack.slowed(at)
        return is_easier

    @override
    def extra_repr(self) -> str:
        return f"{self.attack.describe()}, epsilon {self.attack.epsilon_at():.6g} at the end"


class Adversarial(WithLabelLoss, UnderAttack):
    """The mean cross-entropy of adversarial images only, computed anew at every step.

    With a scheduled epsilon this is extended adversarial training (``schedules.Stages``) or IAT
    (``schedules.PerEpoch`` of a ramp), after Shaeiri et al., arXiv 2003.13370.

    Args:
        attack: How to perturb the images.
        label_smoothing: As of ``CrossEntropy``.
        class_weights: As of ``CrossEntropy``.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        attack: Attack,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(attack)
        self.label_loss = LabelLoss(label_smoothing, class_weights)

    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        logits = logits_of(passed.model, self.adversarial_images(passed, labels, progress))
        loss = self.label_loss(logits, labels)
        return LossTerms(loss, self.attack_terms(logits, labels, progress, loss))
