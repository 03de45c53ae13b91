"""Random perturbation: the baseline that any attack must beat."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks.attack import Attack
from withstand.attacks.worst import worst_of
from withstand.core import norms
from withstand.core.modes import eval_mode
from withstand.core.setting_rules import COUNT, settle


@dataclass(frozen=True)
class Noise(Attack):
    """Uniform draws from the ball of ``epsilon``, clamped to [0, 1]; the worst of all is returned.

    Args:
        norm: Of the ball: 1, 2 or inf.
        epsilon: Radius of the ball, in [0, 1] units; a float or a schedule of one.
        num_samples: Draws an image. A single one is returned, whether it breaks the example or not.
        mode: As of every attack; the worst image is one that fools the model, where ``random`` that of the
            largest loss.

    Raises:
        ValueError: a setting is out of its range.
    """

    norm: float = math.inf
    num_samples: int = 1
    kind = "black-box"

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, norm=norms.norm_rule, num_samples=COUNT)

    @override
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        epsilon = self.budget_for(images, progress)
        if self.num_samples == 1:
            return self._draw(images, epsilon)
        draws = (self._draw(images, epsilon) for _ in range(self.num_samples))
        with eval_mode(model):
            return worst_of(model, images.detach(), labels, draws, by_loss=self.mode == "random")

    @property
    @override
    def name(self) -> str:
        return f"noise-{self.num_samples}-{norms.label(self.norm)}"

    @override
    def describe(self) -> str:
        by_loss = " by loss" if self.mode == "random" and self.num_samples > 1 else ""
        return f"Uniform noise in the {norms.label(self.norm)} ball, worst of {self.num_samples}{by_loss}"

    def _draw(self, images: Tensor, epsilon: float) -> Tensor:
        return (images + norms.random_in_ball(images, self.norm, epsilon)).clamp(0.0, 1.0).detach()
