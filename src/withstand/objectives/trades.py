"""Adversarial training that trades clean accuracy for answers that do not change (TRADES)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from typing_extensions import override

from withstand.attacks.attack import Attack
from withstand.attacks.losses import kl_divergence
from withstand.core.answers import is_correct
from withstand.core.schedules import Schedule, scheduled, value_at
from withstand.core.setting_rules import AT_LEAST_0, settle
from withstand.loss.passes import Pass, logits_of
from withstand.objectives.adversarial import UnderAttack
from withstand.objectives.label_loss import LabelLoss, WithLabelLoss
from withstand.types import LossTerms


class TRADES(WithLabelLoss, UnderAttack):
    """The clean cross-entropy, and ``weight`` times the mean of KL(p(x) ‖ p(x')).

    Zhang et al., "Theoretically principled trade-off between robustness and accuracy" (ICML 2019, eq. 5).
    x' is what the attack finds when it climbs that divergence itself, with p(x) held, from a random start;
    the gradient with respect to the weights is that of both distributions. Clean and adversarial images go
    through the model one after the other, as in the published code.

    Args:
        attack: How to look for x': a ``PGD`` without a loss of its own.
        weight: beta of the paper, at least 0; a float or a schedule.
        label_smoothing: Of the clean cross-entropy, as of ``CrossEntropy``.
        class_weights: Of the clean cross-entropy, as of ``CrossEntropy``.

    Raises:
        ValueError: the attack climbs no loss that can be set, or does not start at random, or a number is out
            of its range.
    """

    def __init__(
        self,
        attack: Attack,
        weight: float | Schedule = 6.0,
        *,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(attack)
        self.attack = self.attack.climbing(kl_divergence)
        self.weight = weight
        settle(self, weight=scheduled(AT_LEAST_0))
        self.label_loss = LabelLoss(label_smoothing, class_weights)

    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        adversarial = self.adversarial_images(passed, labels, progress)
        clean, logits = passed.logits, logits_of(passed.model, adversarial)
        loss = self.label_loss(clean, labels)
        divergence = kl_divergence(logits, clean).mean()
        terms = {
            "cross_entropy": loss.detach(),
            "accuracy": is_correct(clean, labels).float().mean(),
            "divergence": divergence.detach(),
        }
        total = loss + value_at(self.weight, progress) * divergence
        return LossTerms(total, terms | self.attack_terms(logits, labels, progress))

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, weight={self.weight}"
