"""The bookkeeping of the worst image so far."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from withstand.attacks.losses import cross_entropy
from withstand.core.answers import is_correct


def pick(chosen: Tensor, images: Tensor, others: Tensor) -> Tensor:
    """The images of the chosen examples, those of ``others`` for the rest.

    Args:
        chosen: Bool tensor (batch,).
        images: Tensor (batch, …).
        others: Tensor of the same shape.
    """
    return torch.where(chosen.reshape(-1, *[1] * (images.dim() - 1)), images, others)


@dataclass
class Worst:
    """The worst image of each example so far: fooled before not fooled, then by larger loss.

    A loss that is NaN is the least of all. So an image to which the model gives no answer comes before those
    that it gets right, since it is not robust there, and after all that mislead it to another class.

    Attributes:
        images: Tensor (batch, …).
        loss: Tensor (batch,).
        fooled: Bool tensor (batch,).
        by_loss: Go by the loss alone.
    """

    images: Tensor
    loss: Tensor
    fooled: Tensor
    by_loss: bool = False

    @staticmethod
    def of(images: Tensor, labels: Tensor, logits: Tensor, loss: Tensor, *, by_loss: bool = False) -> Worst:
        """Begins with the given images."""
        return Worst(images.clone(), _ordered(loss), ~is_correct(logits, labels), by_loss)

    @property
    def misled(self) -> Tensor:
        """Which examples the model gives another class, so that there is nothing left to look for."""
        return self.fooled & (self.loss > -math.inf)

    def update(self, index: Tensor, images: Tensor, fooled: Tensor, loss: Tensor) -> None:
        """Takes up those of the images that are worse than what is held.

        Args:
            index: Integer tensor (n,): which examples the images are of, each at most once.
            images: Tensor (n, …).
            fooled: Bool tensor (n,): the model gets them wrong.
            loss: Tensor (n,).
        """
        was_fooled, loss = self.fooled[index], _ordered(loss)
        worse = loss > self.loss[index]
        if not self.by_loss:
            worse = (fooled & ~was_fooled) | ((fooled == was_fooled) & worse)
        self.images[index] = pick(worse, images, self.images[index])
        self.loss[index] = torch.where(worse, loss, self.loss[index])
        self.fooled[index] = fooled | was_fooled


def _ordered(loss: Tensor) -> Tensor:
    """A copy of the loss in which NaN, which nothing can be compared with, is the least."""
    return loss.where(~loss.isnan(), -math.inf)


def worst_of(
    model: nn.Module, images: Tensor, labels: Tensor, tries: Iterable[Tensor], *, by_loss: bool
) -> Tensor:
    """The worst of the given images and of others for the same examples, by cross-entropy.

    Args:
        model: In eval mode.
        images: Tensor (batch, …).
        labels: Integer tensor (batch,).
        tries: Tensors (batch, …); each is taken when the model has answered for the one before.
        by_loss: Go by the loss alone, else what fools the model comes first.
    """
    everyone = torch.arange(len(images), device=images.device)
    with torch.no_grad():
        logits = model(images)
    worst = Worst.of(images, labels, logits, cross_entropy(logits, labels), by_loss=by_loss)
    for candidate in tries:
        with torch.no_grad():
            logits = model(candidate)
        worst.update(everyone, candidate, ~is_correct(logits, labels), cross_entropy(logits, labels))
    return worst.images
