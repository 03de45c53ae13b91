"""Adversarial training (Madry et al., ICLR 2018), to large epsilon where it is scheduled."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.attacks.attack import Attack, an_attack
from withstand.core.answers import is_correct
from withstand.loss.passes import logits_of
from withstand.loss.terms import Objective
from withstand.types import LossTerms

LOSS_TERM = "adversarial"
ACCURACY_TERM = "adversarial_accuracy"


class Adversarial(Objective):
    """The mean cross-entropy of adversarial images only, computed anew at every step.

    The attack sees the model in eval mode and differentiates the images only, so BatchNorm
    statistics come from the training pass alone and no attack gradient reaches the weights.
    With a scheduled epsilon this is extended adversarial training (``schedules.Stages``) or IAT
    (``schedules.PerEpoch`` of a ramp), after Shaeiri et al., arXiv 2003.13370.

    Args:
        attack: How to perturb the images.
    """

    def __init__(self, attack: Attack) -> None:
        super().__init__()
        self.attack: Attack = an_attack("attack", attack)

    @override
    def forward(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> LossTerms:
        adversarial = self.attack.perturb(model, images, labels, progress=progress)
        logits = logits_of(model, adversarial)
        loss = F.cross_entropy(logits, labels)
        terms = {
            LOSS_TERM: loss.detach(),
            ACCURACY_TERM: is_correct(logits, labels).float().mean(),
            "epsilon": loss.new_full((), self.attack.epsilon_at(progress)),  # without a copy from the host
        }
        return LossTerms(loss, terms)

    @override
    def slow_down(self, at: float) -> bool:
        slowed, middle = self.attack.slowed(at), at + 0.5
        is_easier = slowed.epsilon_at(middle) < self.attack.epsilon_at(middle)
        if is_easier:
            self.attack = slowed
        return is_easier

    @override
    def extra_repr(self) -> str:
        return f"{self.attack.describe()}, epsilon {self.attack.epsilon_at():.6g} at the end"
