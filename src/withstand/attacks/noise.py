"""Random perturbation: the baseline that any attack must beat."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand import norms
from withstand.attacks.base import AttackKind, BallAttack
from withstand.attacks.losses import cross_entropy
from withstand.attacks.worst import Worst
from withstand.modes import eval_mode
from withstand.schedules import Slowed

__all__ = ["Noise"]


@dataclass(frozen=True)
class Noise(BallAttack):
    """Uniform draws from the ball of ``epsilon``, clamped to [0, 1]; the worst of all is kept.

    Args:
        norm: Of the ball: 1, 2 or inf.
        epsilon: Radius of the ball, in [0, 1] units; a float or a schedule of one.
        num_samples: Draws an image. A single one is returned as it falls.
        rank_by_loss: The worst image is that of the largest loss, whether or not it fools the model
            (else one that does comes first); for a model whose answers are random.

    Raises:
        ValueError: a setting is out of its range.
    """

    num_samples: int = 1
    rank_by_loss: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_samples < 1:
            raise ValueError(f"Expected num_samples of at least 1, but got {self.num_samples}.")

    @override
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        epsilon = self.epsilon_at(progress)
        if self.num_samples == 1:
            return self._draw(images, epsilon)
        everyone = torch.arange(len(images), device=images.device)
        with eval_mode(model), torch.no_grad():
            logits = model(images)
            loss = cross_entropy(logits, labels)
            worst = Worst.of(images, labels, logits, loss, by_loss=self.rank_by_loss)
            for _ in range(self.num_samples):
                noisy = self._draw(images, epsilon)
                logits = model(noisy)
                worst.update(everyone, noisy, logits.argmax(dim=1) != labels, cross_entropy(logits, labels))
        return worst.images

    @override
    def for_evaluation(self) -> Noise:
        return replace(self, rank_by_loss=False)

    @override
    def for_random_answers(self) -> Noise:
        return replace(self, rank_by_loss=True)

    @override
    def slowed(self, at: float) -> Noise:
        return replace(self, epsilon=Slowed(self.epsilon, at))

    @property
    @override
    def kind(self) -> AttackKind:
        return "black-box"

    @property
    @override
    def name(self) -> str:
        return f"noise-{self.num_samples}-{norms.label(self.norm)}"

    @override
    def describe(self) -> str:
        by_loss = " by loss" if self.rank_by_loss and self.num_samples > 1 else ""
        return f"Uniform noise in the {norms.label(self.norm)} ball, worst of {self.num_samples}{by_loss}"

    def _draw(self, images: Tensor, epsilon: float) -> Tensor:
        return (images + norms.random_in_ball(images, self.norm, epsilon)).clamp(0.0, 1.0).detach()
