"""Several attacks as one: each on the examples that the former ones did not break."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks.attack import Attack, WrappedAttack, an_attack
from withstand.attacks.worst import worst_of
from withstand.core import norms
from withstand.core.answers import is_correct
from withstand.core.modes import eval_mode
from withstand.core.setting_rules import list_of


@dataclass(frozen=True)
class Cascade(WrappedAttack):
    """The worst of several attacks of one norm, an example at a time.

    They run one after another, each on the examples that no former one fooled the model with. Of a model
    whose answers are random (``for_random_answers``) every one of them attacks all examples, and the image
    of the largest cross-entropy is returned.

    Args:
        members: The attacks, in order; of one norm, with the same budget and in one mode.
        label: A short name of lower-case letters, digits and hyphens: ``standard``.
        left_out: What belongs to a cascade of that label and does not fit the data, in words for a report.

    Raises:
        ValueError: there is no member, or their norms, budgets or modes differ.
    """

    members: Sequence[Attack]
    label: str = "cascade"
    left_out: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", tuple(list_of(an_attack)("a cascade's attacks", self.members)))
        budgets = [member.epsilon_at() for member in self.members]
        modes = [member.mode for member in self.members]
        names = [member.name for member in self.members]
        _require_one("norm", [member.norm for member in self.members], names)
        _require_one("budget", budgets, [f"{budget:.6g}" for budget in budgets])
        _require_one("mode", modes, modes)
        super().__post_init__()

    @override
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        images = images.detach()
        if not images.numel():
            return images.clone()
        with eval_mode(model):
            if self.mode == "random":
                tries = (member.perturb(model, images, labels, progress=progress) for member in self.members)
                return worst_of(model, images, labels, tries, by_loss=True)
            return self._one_after_another(model, images, labels, progress)

    @property
    @override
    def inside(self) -> Sequence[Attack]:
        return self.members

    @override
    def around(self, inside: Sequence[Attack]) -> Self:
        return replace(self, members=inside)

    @property
    @override
    def stages(self) -> Sequence[Attack]:
        return [stage for member in self.members for stage in member.stages]

    @property
    @override
    def name(self) -> str:
        return self.label if self.norm is None else f"{self.label}-{norms.label(self.norm)}"

    @override
    def describe(self) -> str:
        how = "the largest loss of" if self.mode == "random" else "each on what is still robust:"
        members = "; ".join(member.describe() for member in self.members)
        return f"{self.label}, {how} {members}" + (f"; left out: {self.left_out}" if self.left_out else "")

    def _one_after_another(self, model: nn.Module, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        adversarial = images.clone()
        index = torch.arange(len(images), device=images.device)
        index = index[_is_correct(model, images, labels)]
        for member in self.members:
            if not len(index):
                break
            reached = member.perturb(model, images[index], labels[index], progress=progress)
            robust = _is_correct(model, reached, labels[index])
            adversarial[index[~robust]] = reached[~robust]
            index = index[robust]
        return adversarial


def _require_one(setting: str, values: Sequence[object], words: Sequence[str]) -> None:
    if len(set(values)) > 1:
        raise ValueError(
            f"Expected the attacks of a cascade to have one {setting}, but got {', '.join(words)}."
        )


@torch.no_grad()
def _is_correct(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    logits: Tensor = model(images)
    return is_correct(logits, labels)
