"""The bookkeeping of the worst image so far."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from withstand.attacks.losses import cross_entropy
from withstand.core.answers import NO_ANSWER, predicted

WRONG, ON_TARGET = 2, 3
"""Ranks of an image (``ranks``): the model takes it for another class, for the class that was asked for."""


def ranks(answers: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """How far images have got: 0 correct, 1 no answer, 2 a wrong class, 3 the target, where there is one.

    Args:
        answers: Integer tensor (batch,), as of ``predicted``.
        labels: Integer tensor (batch,): the true classes.
        targets: Integer tensor (batch,): the classes that the images are to be taken for.

    Returns:
        Integer tensor (batch,).
    """
    is_wrong = answers != labels
    rank = is_wrong.int() + (is_wrong & (answers != NO_ANSWER))
    return rank if targets is None else rank + (is_wrong & (answers == targets))


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
    """The worst image of each example so far: that of the highest rank, then of the larger loss.

    A loss that is NaN is the least of all.

    Attributes:
        images: Tensor (batch, …).
        loss: Tensor (batch,).
        rank: Integer tensor (batch,), as of ``ranks``.
        by_loss: Go by the loss alone.
    """

    images: Tensor
    loss: Tensor
    rank: Tensor
    by_loss: bool = False

    @staticmethod
    def of(images: Tensor, rank: Tensor, loss: Tensor, *, by_loss: bool = False) -> Worst:
        """Begins with the given images."""
        return Worst(images.clone(), _ordered(loss), rank, by_loss)

    def update(self, index: Tensor, images: Tensor, rank: Tensor, loss: Tensor) -> None:
        """Takes up those of the images that are worse than what is held.

        Args:
            index: Integer tensor (n,): which examples the images are of, each at most once.
            images: Tensor (n, …).
            rank: Integer tensor (n,).
            loss: Tensor (n,).
        """
        former, loss = self.rank[index], _ordered(loss)
        worse = loss > self.loss[index]
        if not self.by_loss:
            worse = (rank > former) | ((rank == former) & worse)
        self.images[index] = pick(worse, images, self.images[index])
        self.loss[index] = torch.where(worse, loss, self.loss[index])
        self.rank[index] = torch.maximum(rank, former)


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

    def judged(candidate: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            logits = model(candidate)
        return ranks(predicted(logits), labels), cross_entropy(logits, labels)

    worst = Worst.of(images, *judged(images), by_loss=by_loss)
    for candidate in tries:
        worst.update(everyone, candidate, *judged(candidate))
    return worst.images
