"""An attack on the mean network of a random one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks.base import Attack, AttackKind
from withstand.bayes import Predictor, at_means

__all__ = ["AtMeans"]


@dataclass(frozen=True)
class AtMeans(Attack):
    """Another attack with all random weights at their means; its images are tried on the random network.

    Its gradients are no average over draws, but have no noise either, and a step costs less than one draw.
    Where draws do not differ much it is the stronger for it; beside an attack on the draws themselves it
    shows whether noisy gradients, and no robustness, are what holds the latter off. On a network without
    random weights it is the attack itself.

    Args:
        attack: What to run on the mean network.
    """

    attack: Attack

    @override
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        target = model.model if isinstance(model, Predictor) else model  # the mean of equal answers is one
        with at_means(target):
            return self.attack.perturb(target, images, labels, progress=progress)

    @override
    def epsilon_at(self, progress: float = math.inf) -> float:
        return self.attack.epsilon_at(progress)

    @property
    @override
    def ball_norm(self) -> float | None:
        return self.attack.ball_norm

    @override
    def at(self, epsilon: float) -> AtMeans:
        return replace(self, attack=self.attack.at(epsilon))

    @override
    def for_evaluation(self) -> AtMeans:
        return replace(self, attack=self.attack.for_evaluation())

    @override
    def for_random_answers(self) -> AtMeans:
        return replace(self, attack=self.attack.for_random_answers())

    @override
    def slowed(self, at: float) -> AtMeans:
        return replace(self, attack=self.attack.slowed(at))

    @property
    @override
    def kind(self) -> AttackKind:
        return self.attack.kind

    @property
    @override
    def stages(self) -> Sequence[Attack]:
        return [replace(self, attack=stage) for stage in self.attack.stages]

    @property
    @override
    def name(self) -> str:
        return f"means-{self.attack.name}"

    @override
    def describe(self) -> str:
        return f"{self.attack.describe()}, on the network of mean weights"
