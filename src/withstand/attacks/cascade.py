"""Several attacks as one: each on what the former ones left standing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand import norms
from withstand.attacks.base import Attack
from withstand.attacks.losses import cross_entropy
from withstand.attacks.worst import Worst
from withstand.modes import eval_mode

__all__ = ["Cascade"]


@dataclass(frozen=True)
class Cascade(Attack):
    """The worst of several attacks of one norm, an example at a time.

    They run one after another, each on the examples that no former one fooled the model with. Of a model
    whose answers are random (``for_random_answers``) every one of them attacks all examples, and the image
    of the largest cross-entropy is kept.

    Args:
        members: The attacks, in order; of one norm, and with the same budget.
        label: A short name of lower-case letters, digits and hyphens: ``standard``.
        rank_by_loss: Go by the loss alone.

    Raises:
        ValueError: there is no member, or their norms or budgets differ.
    """

    members: Sequence[Attack]
    label: str = "cascade"
    rank_by_loss: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", tuple(self.members))
        if not self.members:
            raise ValueError("Expected at least one attack in a cascade, but got none.")
        if len({member.ball_norm for member in self.members}) > 1:
            found = ", ".join(member.name for member in self.members)
            raise ValueError(f"Expected the attacks of a cascade to have one norm, but got {found}.")
        if len({member.epsilon_at() for member in self.members}) > 1:
            found = ", ".join(f"{member.epsilon_at():.6g}" for member in self.members)
            raise ValueError(f"Expected the attacks of a cascade to have one budget, but got {found}.")

    @override
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        images = images.detach()
        if not images.numel():
            return images.clone()
        with eval_mode(model):
            if self.rank_by_loss:
                return self._of_largest_loss(model, images, labels, progress)
            return self._one_after_another(model, images, labels, progress)

    @override
    def epsilon_at(self, progress: float = math.inf) -> float:
        return self.members[0].epsilon_at(progress)

    @property
    @override
    def ball_norm(self) -> float | None:
        return self.members[0].ball_norm

    @override
    def at(self, epsilon: float) -> Cascade:
        return self._with(lambda member: member.at(epsilon))

    @override
    def for_evaluation(self) -> Cascade:
        return replace(self._with(lambda member: member.for_evaluation()), rank_by_loss=False)

    @override
    def for_random_answers(self) -> Cascade:
        return replace(self._with(lambda member: member.for_random_answers()), rank_by_loss=True)

    @override
    def slowed(self, at: float) -> Cascade:
        return self._with(lambda member: member.slowed(at))

    @property
    @override
    def stages(self) -> Sequence[Attack]:
        return [stage for member in self.members for stage in member.stages]

    @property
    @override
    def name(self) -> str:
        norm = self.ball_norm
        return self.label if norm is None else f"{self.label}-{norms.label(norm)}"

    @override
    def describe(self) -> str:
        how = "the largest loss of" if self.rank_by_loss else "each on what still stands:"
        return f"{self.label}, {how} " + "; ".join(member.describe() for member in self.members)

    def _with(self, change: Callable[[Attack], Attack]) -> Cascade:
        return replace(self, members=[change(member) for member in self.members])

    def _one_after_another(self, model: nn.Module, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        found = images.clone()
        index = torch.arange(len(images), device=images.device)
        index = index[_is_right(model, images, labels)]
        for member in self.members:
            if not len(index):
                break
            reached = member.perturb(model, images[index], labels[index], progress=progress)
            stands = _is_right(model, reached, labels[index])
            found[index[~stands]] = reached[~stands]
            index = index[stands]
        return found

    def _of_largest_loss(self, model: nn.Module, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        everyone = torch.arange(len(images), device=images.device)
        with torch.no_grad():
            logits = model(images)
            worst = Worst.of(images, labels, logits, cross_entropy(logits, labels), by_loss=True)
        for member in self.members:
            reached = member.perturb(model, images, labels, progress=progress)
            with torch.no_grad():
                logits = model(reached)
            worst.update(everyone, reached, logits.argmax(dim=1) != labels, cross_entropy(logits, labels))
        return worst.images


@torch.no_grad()
def _is_right(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    logits: Tensor = model(images)
    return logits.argmax(dim=1) == labels
