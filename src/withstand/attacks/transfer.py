"""Images that fool another model, tried on this one."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks.attack import Attack, WrappedAttack
from withstand.attacks.losses import cross_entropy
from withstand.attacks.worst import pick
from withstand.core import norms
from withstand.core.answers import is_correct
from withstand.core.contract import adapted
from withstand.core.modes import eval_mode
from withstand.types import AttackError, ModelError


@dataclass(frozen=True)
class Transfer(WrappedAttack):
    """An attack on a surrogate, whose images are tried on the model; it asks the model for answers only.

    Where only success counts, the surrogate is attacked for the largest loss: an image that only just
    fools the surrogate rarely fools another model. An image that does not fool the model comes back
    unchanged; where its answers are random (``for_random_answers``), one that does not raise its loss.

    Args:
        surrogate: Maps images in [0, 1] to logits of the same classes. It is moved to the device of the
            images; its modes and gradients stay as they were.
        attack: What to run on it.
        source: What to call the surrogate, for its name and for reports.

    Raises:
        ValueError: the source has no letter or digit to name it by.
    """

    surrogate: nn.Module = field(repr=False)
    attack: Attack
    source: str = "surrogate"
    kind = "transfer"

    def __post_init__(self) -> None:
        if not _slug(self.source):
            raise ValueError(f"Expected a source with a letter or digit in it, but got {self.source!r}.")
        super().__post_init__()

    @override
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        images = images.detach()
        if not images.numel():
            return images.clone()
        adversarial = self._on_surrogate(images, labels, progress)
        with eval_mode(model), torch.no_grad():
            logits = model(adversarial)
            is_success = ~is_correct(logits, labels)
            if self.mode == "random":
                # A loss of NaN is below all others.
                before, after = cross_entropy(model(images), labels), cross_entropy(logits, labels)
                is_success = ~after.isnan() & ~(after <= before)
        return pick(is_success, adversarial, images)

    @property
    @override
    def inside(self) -> Sequence[Attack]:
        return (self.attack,)

    @override
    def around(self, inside: Sequence[Attack]) -> Self:
        return replace(self, attack=inside[0])

    @property
    @override
    def name(self) -> str:
        return f"transfer-{_slug(self.source)}-{_norm_label(self.attack)}"

    @override
    def describe(self) -> str:
        return f"Transfer from {self.source}, {_norm_label(self.attack)}: {self._surrogate_attack.describe()}"

    @property
    def _surrogate_attack(self) -> Attack:
        """What is run on the surrogate."""
        return self.attack if self.mode == "training" else self.attack.for_random_answers()

    def _on_surrogate(self, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        try:
            surrogate = adapted(self.surrogate.to(images.device), images)
            adversarial = self._surrogate_attack.perturb(surrogate, images, labels, progress=progress)
        except (IndexError, RuntimeError, ModelError) as error:
            raise AttackError(
                f"The attack on {self.source}, from which images are to be transferred, failed: {error}. "
                "Expected a model that takes the same images and has the same classes."
            ) from error
        return adversarial


def _slug(source: str) -> str:
    return re.sub("[^a-z0-9]+", "-", source.lower()).strip("-")


def _norm_label(attack: Attack) -> str:
    return attack.name if attack.norm is None else norms.label(attack.norm)
