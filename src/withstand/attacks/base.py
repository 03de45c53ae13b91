"""The interface of every attack."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand import norms
from withstand.checks import check_batch
from withstand.modes import eval_mode
from withstand.schedules import Schedule, value_at
from withstand.types import DataError

__all__ = ["Attack", "AttackKind", "BallAttack"]

AttackKind = Literal["white-box", "black-box", "transfer"]


class Attack(ABC):
    """Looks for images near the given ones, in [0, 1], that the model gets wrong.

    An attack is immutable and keeps no state: what it is told at construction is all there is.
    """

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        """Adversarial images; the model's modes and parameter gradients stay as they were.

        Args:
            model: Maps images in [0, 1] to logits (batch, classes).
            images: Float tensor (batch, …) in [0, 1].
            labels: Integer tensor (batch,): the true classes.
            progress: Epochs done, for an attack whose strength is scheduled.

        Returns:
            Tensor of the shape of ``images``, in [0, 1], within ``epsilon`` of them, detached.

        Raises:
            DataError: the images are outside [0, 1] or the labels do not fit.
        """
        check_batch(images, labels)
        try:
            return self.perturb(model, images, labels, progress=progress)
        except (IndexError, RuntimeError) as error:
            _require_labels_in_range(model, images, labels, error)
            raise

    @abstractmethod
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        """As ``__call__``, without its checks, which read values back from the device."""

    @abstractmethod
    def epsilon_at(self, progress: float = math.inf) -> float:
        """The perturbation budget, in [0, 1] units, when ``progress`` epochs are done."""

    @property
    @abstractmethod
    def ball_norm(self) -> float | None:
        """The norm in which ``epsilon`` is measured: 1, 2, inf, or None where it is none of these."""

    @abstractmethod
    def at(self, epsilon: float) -> Attack:
        """The same attack with another budget."""

    @abstractmethod
    def for_evaluation(self) -> Attack:
        """The same attack where only its success counts: best iterate, stop when fooled."""

    @abstractmethod
    def for_random_answers(self) -> Attack:
        """The same attack where only its success counts, and one answer decides nothing.

        Of a model that draws its answers, an image is worst that has the largest loss, not one that
        fooled it once.
        """

    @abstractmethod
    def slowed(self, at: float) -> Attack:
        """The same attack with the step of its budget at epoch ``at`` halved (``schedules.Slowed``)."""

    @property
    @abstractmethod
    def name(self) -> str:
        """A short name without the budget, fit for a column: ``pgd-200-linf``."""

    @abstractmethod
    def describe(self) -> str:
        """A sentence of its settings, for a report."""

    @property
    def kind(self) -> AttackKind:
        """What it knows of the model: its gradients, its answers alone, or another model instead."""
        return "white-box"

    @property
    def draws_by_batch(self) -> bool:
        """Whether what it draws for an example depends on which others it is given."""
        return False

    @property
    def stages(self) -> Sequence[Attack]:
        """What it is made of: run one after another, each on the examples that still stand.

        Itself, for all but a cascade.
        """
        return (self,)


def _require_labels_in_range(model: nn.Module, images: Tensor, labels: Tensor, error: Exception) -> None:
    """Says so where labels beyond the model's classes made an attack fail.

    Asked only then, since the number of classes is known from a forward pass alone.
    """
    classes = math.inf
    with suppress(Exception), eval_mode(model), torch.no_grad():  # the model itself may be what fails
        classes = model(images[:1]).shape[-1]
    if labels.numel() and int(labels.max()) >= classes:
        raise DataError(
            f"Expected labels from 0 to {classes - 1}, as the model has {classes} outputs, "
            f"but got {int(labels.max())}."
        ) from error


@dataclass(frozen=True)
class BallAttack(Attack, ABC):
    """The part that attacks inside a ball share: its norm and its radius.

    Args:
        norm: Of the ball: 1, 2 or inf.
        epsilon: Radius of the ball, in [0, 1] units; a float or a schedule of one.

    Raises:
        ValueError: the norm is none of these, or epsilon is negative or not finite.
    """

    norm: float = math.inf
    epsilon: float | Schedule = 8 / 255

    def __post_init__(self) -> None:
        norms.require_norm(self.norm)
        if not isinstance(self.epsilon, Schedule) and not 0 <= self.epsilon < math.inf:
            raise ValueError(f"Expected epsilon of at least 0, but got {self.epsilon}.")

    @override
    def epsilon_at(self, progress: float = math.inf) -> float:
        return value_at(self.epsilon, progress)

    @property
    @override
    def ball_norm(self) -> float:
        return self.norm

    @override
    def at(self, epsilon: float) -> Self:
        return replace(self, epsilon=epsilon)
