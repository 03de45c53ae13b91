"""The interface of every attack, and of those that work by others."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Literal, Self, final, get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.core import norms
from withstand.core.checks import as_batch, check_batch
from withstand.core.contract import adapted_with_classes, outside_inference_mode, require_module
from withstand.core.rounding import rounded_inside
from withstand.core.schedules import Schedule, Slowed, scheduled, value_at
from withstand.core.setting_rules import AT_LEAST_0, instance_of, optional, settle
from withstand.types import ModelError

AttackKind = Literal["white-box", "black-box", "transfer"]
"""Those that know most of a model come first."""
AttackMode = Literal["training", "evaluation", "random"]


@dataclass(frozen=True)
class Attack(ABC):
    """Looks for images near the given ones, in [0, 1], that the model gets wrong.

    An attack is immutable and keeps no state: its settings are all there is. One of your
    own is a frozen dataclass with ``perturb`` and ``name``.

    Args:
        norm: In which ``epsilon`` is measured: 1, 2, inf (or ``"l1"``, ``"l2"``, ``"linf"``), or None where
            it is none of these.
        epsilon: The perturbation budget, in [0, 1] units; a float (or ``"8/255"``), or a schedule of one.
        mode: What the attack is for. ``training``: what its other settings say. ``evaluation``: only
            success counts, so the worst image met is returned and examples leave the batch once they fool the
            model. ``random``: the same of a model that draws its answers, so that one answer decides
            nothing and the worst image is that of the largest loss.

    Raises:
        TypeError: a setting is of the wrong type.
        ValueError: a setting is out of its range.

    Warns:
        UserWarning: ``epsilon`` is larger than the distance of any two images, as 8 is where 8/255 is meant.
    """

    norm: float | None = math.inf
    epsilon: float | Schedule = 8 / 255
    mode: AttackMode = field(default="training", kw_only=True)

    def __post_init__(self) -> None:
        settle(self, norm=optional(norms.norm_rule), epsilon=scheduled(AT_LEAST_0))
        norms.warn_beyond_range(self.norm, self.epsilon_at())
        if self.mode not in get_args(AttackMode):
            raise ValueError(f"Expected a mode of {', '.join(get_args(AttackMode))}, but got {self.mode!r}.")

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        """Adversarial images; the model's modes and parameter gradients stay as they were.

        Images of less than float32 are attacked in float32, and come back in their own type.

        Args:
            model: Maps images in [0, 1] to logits (batch, classes).
            images: Float tensor (batch, …) in [0, 1].
            labels: Integer tensor (batch,): the true classes.
            progress: Epochs done, for an attack whose strength is scheduled.

        Returns:
            Tensor of the shape of ``images``, in [0, 1], within ``epsilon`` of them, detached.

        Raises:
            DataError: the images are no floats in [0, 1], or the labels do not fit them or the model.
            ModelError: the model fails on the images, gives no logits, or has no gradient that is asked for.
        """
        with outside_inference_mode():
            images, labels = as_batch(images, labels)
            precise = images.to(torch.promote_types(images.dtype, torch.float32))
            model, num_classes = adapted_with_classes(model, precise)
            check_batch(images, labels, num_classes)
            try:
                moved = self.perturb(model, precise, labels, progress=progress)
            except RuntimeError as error:
                _require_gradients(error)
                raise
            if self.norm is None or not len(images):
                return moved.to(images.dtype)
            return rounded_inside(images, moved, self.norm, self.epsilon_at(progress))

    def bind(self, model: nn.Module) -> BoundAttack:
        """The attack with its model, which takes images and labels alone, as attacks of torchattacks do.

        Args:
            model: Maps images in [0, 1] to logits (batch, classes).

        Raises:
            ModelError: it is no ``torch.nn.Module``.
        """
        return BoundAttack(self, model)

    @abstractmethod
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        """As ``__call__``, without its checks, which read values back from the device."""

    @property
    @abstractmethod
    def name(self) -> str:
        """A short name without the budget, fit for a column: ``pgd-200-linf``."""

    def epsilon_at(self, progress: float = math.inf) -> float:
        """The perturbation budget, in [0, 1] units, when ``progress`` epochs are done."""
        return value_at(self.epsilon, progress)

    def budget_for(self, images: Tensor, progress: float = math.inf) -> float:
        """``epsilon_at``, with a warning where it is larger than the distance of any two images.

        Args:
            images: Tensor (batch, …).
            progress: Epochs done.
        """
        epsilon = self.epsilon_at(progress)
        norms.warn_beyond_range(self.norm, epsilon, images.shape[1:].numel())
        return epsilon

    def at(self, epsilon: float) -> Self:
        """The same attack with another budget."""
        return replace(self, epsilon=epsilon)

    def slowed(self, at: float) -> Self:
        """The same attack with the step of its budget at epoch ``at`` halved (``schedules.Slowed``)."""
        return replace(self, epsilon=Slowed(self.epsilon, at))

    def for_evaluation(self) -> Self:
        """The same attack where only its success counts."""
        return replace(self, mode="evaluation")

    def for_random_answers(self) -> Self:
        """The same attack where only its success counts, and one answer of the model decides nothing."""
        return replace(self, mode="random")

    def climbing(self, loss: Callable[[Tensor, Tensor], Tensor]) -> Self:
        """The same attack that climbs another loss than cross-entropy.

        Args:
            loss: As ``PGD`` takes it.

        Raises:
            ValueError: the attack climbs no loss that could be set, or has one of its own already.
        """
        raise ValueError(
            f"The attack {self.name} climbs no loss that could be set; take withstand.attacks.PGD."
        )

    def describe(self) -> str:
        """A sentence of its settings, for a report."""
        return self.name

    @property
    def kind(self) -> AttackKind:
        """What it knows of the model: its gradients, its answers alone, or another model instead."""
        return "white-box"

    @property
    def draws_by_batch(self) -> bool:
        """Whether what it draws for an example depends on which others it is given."""
        return False

    @property
    def is_masked(self) -> bool:
        """Whether it changes some pixels only: its ball is not that which others of its norm search."""
        return False

    @property
    def packages(self) -> Sequence[str]:
        """Packages beyond those of a plain installation that must be there for it."""
        return ()

    @property
    def stages(self) -> Sequence[Attack]:
        """What it is made of: run one after another, each on the examples that are still robust.

        Itself, for all but a cascade.
        """
        return (self,)


@final
@dataclass(frozen=True)
class BoundAttack:
    """An attack with its model: ``attack = PGD(epsilon=8/255).bind(model)``, then ``attack(images, labels)``.

    Args:
        attack: What to run; it runs as its ``mode`` says, so ``attack.for_evaluation().bind(model)`` returns
            the worst image met.
        model: Maps images in [0, 1] to logits (batch, classes); it is attacked as it is when called.
    """

    attack: Attack
    model: nn.Module

    def __post_init__(self) -> None:
        an_attack("what is bound to a model", self.attack)
        require_module(self.model)

    def __call__(self, images: Tensor, labels: Tensor, *, progress: float = math.inf) -> Tensor:
        """Adversarial images, as ``Attack.__call__`` returns and raises.

        Args:
            images: Float tensor (batch, …) in [0, 1].
            labels: Integer tensor (batch,): the true classes.
            progress: Epochs done, for an attack whose strength is scheduled.
        """
        return self.attack(self.model, images, labels, progress=progress)

    def __repr__(self) -> str:
        return f"{self.attack!r}.bind({type(self.model).__name__})"


an_attack = instance_of(Attack, "an attack, such as PGD(num_steps=20)")


@dataclass(frozen=True)
class WrappedAttack(Attack):
    """An attack that works by others: norm, budget and mode are those of the first of them.

    Whatever changes, changes in all of them.
    """

    norm: float | None = field(init=False, repr=False)
    epsilon: float | Schedule = field(init=False, repr=False)
    mode: AttackMode = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for attack in self.inside:
            an_attack("what a wrapped attack works by", attack)
        for name in ("norm", "epsilon", "mode"):
            object.__setattr__(self, name, getattr(self.inside[0], name))

    @property
    @abstractmethod
    def inside(self) -> Sequence[Attack]:
        """The attacks that it works by, at least one."""

    @abstractmethod
    def around(self, inside: Sequence[Attack]) -> Self:
        """The same with other attacks inside, as many."""

    @override
    def at(self, epsilon: float) -> Self:
        return self._with_inside(lambda attack: attack.at(epsilon))

    @override
    def slowed(self, at: float) -> Self:
        return self._with_inside(lambda attack: attack.slowed(at))

    @override
    def for_evaluation(self) -> Self:
        return self._with_inside(lambda attack: attack.for_evaluation())

    @override
    def for_random_answers(self) -> Self:
        return self._with_inside(lambda attack: attack.for_random_answers())

    @property
    @override
    def kind(self) -> AttackKind:
        return min((attack.kind for attack in self.inside), key=get_args(AttackKind).index)

    @property
    @override
    def draws_by_batch(self) -> bool:
        return any(attack.draws_by_batch for attack in self.inside)

    @property
    @override
    def is_masked(self) -> bool:
        return all(attack.is_masked for attack in self.inside)

    @property
    @override
    def packages(self) -> Sequence[str]:
        return tuple(dict.fromkeys(chain.from_iterable(attack.packages for attack in self.inside)))

    def _with_inside(self, change: Callable[[Attack], Attack]) -> Self:
        return self.around([change(attack) for attack in self.inside])


@dataclass(frozen=True)
class AttackAround(WrappedAttack):
    """An attack that works by one other, stage by stage.

    Args:
        attack: What to run.
    """

    attack: Attack

    @property
    @override
    def inside(self) -> Sequence[Attack]:
        return (self.attack,)

    @override
    def around(self, inside: Sequence[Attack]) -> Self:
        return replace(self, attack=inside[0])

    @override
    def climbing(self, loss: Callable[[Tensor, Tensor], Tensor]) -> Self:
        return self.around([self.attack.climbing(loss)])

    @property
    @override
    def stages(self) -> Sequence[Attack]:
        return [replace(self, attack=stage) for stage in self.attack.stages]


def _require_gradients(error: RuntimeError) -> None:
    """Says so where an attack failed since the model cannot be differentiated."""
    text = str(error)
    if "does not require grad" in text or "to not have been used in the graph" in text:
        raise ModelError(
            "The model's logits have no gradient with respect to its images: its forward takes it away "
            "(torch.no_grad, detach, argmax, integers). Mend it, name the layer to attacks.StraightThrough, "
            "or take an attack that asks for answers alone, such as attacks.Noise."
        ) from error
    if "Inference tensors" in text:
        raise ModelError(
            "The model's weights were made in torch.inference_mode, so it cannot be differentiated. Build or "
            "load it outside of that mode."
        ) from error
