"""Adversarial training that asks more where the clean image is wrong (MART)."""

from __future__ import annotations

import math

from torch import Tensor
from typing_extensions import override

from withstand.attacks.attack import Attack
from withstand.attacks.losses import kl_divergence
from withstand.core.answers import is_correct
from withstand.core.numerics import at_least_float32
from withstand.core.schedules import Schedule, scheduled, value_at
from withstand.core.setting_rules import AT_LEAST_0, settle
from withstand.loss.passes import Pass, logits_of
from withstand.objectives.adversarial import UnderAttack
from withstand.objectives.worst_losses import boosted_cross_entropy
from withstand.types import LossTerms


class MART(UnderAttack):
    """The boosted cross-entropy of x', and ``weight`` times the mean of KL(p(x) ‖ p(x')) (1 - p_y(x)).

    Wang et al., "Improving adversarial robustness requires revisiting misclassified examples" (ICLR 2020,
    eq. 11). Boosted is cross-entropy and -log(1 - p) of the likeliest wrong class. x' is what the attack
    finds by its own loss, which is cross-entropy unless it says otherwise. Clean and adversarial images go
    through the model one after the other, as in the published code.

    Args:
        attack: How to look for x'.
        weight: lambda of the paper, at least 0; a float or a schedule.

    Raises:
        ValueError: the weight is out of its range.
    """

    def __init__(self, attack: Attack, weight: float | Schedule = 5.0) -> None:
        super().__init__(attack)
        self.weight = weight
        settle(self, weight=scheduled(AT_LEAST_0))

    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        adversarial = self.adversarial_images(passed, labels, progress)
        clean, logits = passed.logits, logits_of(passed.model, adversarial)
        boosted = boosted_cross_entropy(logits, labels)
        is_right = at_least_float32(clean).softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
        divergence = (kl_divergence(logits, clean) * (1 - is_right)).mean()
        terms = {
            "boosted": boosted.detach(),
            "accuracy": is_correct(clean, labels).float().mean(),
            "divergence": divergence.detach(),
        }
        total = boosted + value_at(self.weight, progress) * divergence
        return LossTerms(total, terms | self.attack_terms(logits, labels, progress))

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, weight={self.weight}"
