"""An attack on the mean network of a random one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks.attack import AttackAround
from withstand.bayes import Predictor, at_posterior_mean


@dataclass(frozen=True)
class AtMeans(AttackAround):
    """Another attack with all random weights at their means; its images are tried on the random network.

    Its gradients are no average over draws, but have no noise either, and a step costs less than one draw.
    Where draws do not differ much it is the stronger for it; beside an attack on the draws themselves it
    shows whether noisy gradients, and no robustness, are what holds the latter off. On a network without
    random weights it is the attack itself.

    Args:
        attack: What to run on the mean network.
    """

    @override
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        target = model.model if isinstance(model, Predictor) else model  # the mean of equal answers is one
        with at_posterior_mean(target):
            return self.attack.perturb(target, images, labels, progress=progress)

    @property
    @override
    def name(self) -> str:
        return f"means-{self.attack.name}"

    @override
    def describe(self) -> str:
        return f"{self.attack.describe()}, on the network of mean weights"
