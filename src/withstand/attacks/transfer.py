"""Images that fool another model, tried on this one."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand import norms
from withstand.attacks.adapters import keep_inside
from withstand.attacks.base import Attack, AttackKind
from withstand.attacks.losses import cross_entropy
from withstand.modes import eval_mode
from withstand.types import AttackError

__all__ = ["Transfer"]


@dataclass(frozen=True)
class Transfer(Attack):
    """An attack on a surrogate, whose images are tried on the model; it asks the model for answers only.

    Where only success counts, the surrogate is attacked for the largest loss: an image that only just
    fools the surrogate rarely fools another model. An image that does not fool the model comes back
    unchanged.

    Args:
        surrogate: Maps images in [0, 1] to logits of the same classes. It is moved to the device of the
            images; its modes and gradients stay as they were.
        attack: What to run on it.
        source: What to call the surrogate, for its name and for reports.
        rank_by_loss: The attack's image is returned where the model's loss at it is the larger, whether or
            not it fools the model; for a model whose answers are random.

    Raises:
        ValueError: the source has no letter or digit to name it by.
    """

    surrogate: nn.Module = field(repr=False)
    attack: Attack
    source: str = "surrogate"
    rank_by_loss: bool = False

    def __post_init__(self) -> None:
        if not _slug(self.source):
            raise ValueError(f"Expected a source with a letter or digit in it, but got {self.source!r}.")

    @override
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        images = images.detach()
        if not images.numel():
            return images.clone()
        found = self._on_surrogate(images, labels, progress)
        if self.ball_norm is not None:  # the surrogate may compute in another type
            found = keep_inside(images, found, self.ball_norm, self.epsilon_at(progress))
        with eval_mode(model), torch.no_grad():
            logits = model(found)
            is_kept = logits.argmax(dim=1) != labels
            if self.rank_by_loss:
                is_kept = cross_entropy(logits, labels) > cross_entropy(model(images), labels)
        return torch.where(is_kept.reshape(-1, *[1] * (images.dim() - 1)), found, images)

    @override
    def epsilon_at(self, progress: float = math.inf) -> float:
        return self.attack.epsilon_at(progress)

    @property
    @override
    def ball_norm(self) -> float | None:
        return self.attack.ball_norm

    @override
    def at(self, epsilon: float) -> Transfer:
        return replace(self, attack=self.attack.at(epsilon))

    @override
    def for_evaluation(self) -> Transfer:
        return replace(self, attack=self.attack.for_random_answers(), rank_by_loss=False)

    @override
    def for_random_answers(self) -> Transfer:
        return replace(self, attack=self.attack.for_random_answers(), rank_by_loss=True)

    @override
    def slowed(self, at: float) -> Transfer:
        return replace(self, attack=self.attack.slowed(at))

    @property
    @override
    def kind(self) -> AttackKind:
        return "transfer"

    @property
    @override
    def name(self) -> str:
        return f"transfer-{_slug(self.source)}-{_norm_label(self.attack)}"

    @override
    def describe(self) -> str:
        return f"Transfer from {self.source}, {_norm_label(self.attack)}: {self.attack.describe()}"

    def _on_surrogate(self, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        surrogate = self.surrogate.to(images.device)
        dtype = next((p.dtype for p in surrogate.parameters() if p.is_floating_point()), images.dtype)
        try:
            return self.attack.perturb(surrogate, images.to(dtype), labels, progress=progress).to(images)
        except (IndexError, RuntimeError) as error:
            raise AttackError(
                f"The attack on {self.source}, from which images are to be transferred, failed: {error}. "
                "Expected a model that takes the same images and has the same classes."
            ) from error


def _slug(source: str) -> str:
    return re.sub("[^a-z0-9]+", "-", source.lower()).strip("-")


def _norm_label(attack: Attack) -> str:
    return attack.name if attack.ball_norm is None else norms.label(attack.ball_norm)
