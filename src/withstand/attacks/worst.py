"""The bookkeeping of the worst image found so far."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Worst"]


@dataclass
class Worst:
    """The worst image of each example so far: fooled before not fooled, then by larger loss.

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
        return Worst(images.clone(), loss.clone(), logits.argmax(dim=1) != labels, by_loss)

    def update(self, index: Tensor, images: Tensor, fooled: Tensor, loss: Tensor) -> None:
        """Takes up those of the images that are worse than what is held.

        Args:
            index: Integer tensor (n,): which examples the images are of, each at most once.
            images: Tensor (n, …).
            fooled: Bool tensor (n,): the model gets them wrong.
            loss: Tensor (n,).
        """
        was_fooled = self.fooled[index]
        worse = loss > self.loss[index]
        if not self.by_loss:
            worse = (fooled & ~was_fooled) | ((fooled == was_fooled) & worse)
        self.images[index] = torch.where(
            worse.reshape(-1, *[1] * (images.dim() - 1)), images, self.images[index]
        )
        self.loss[index] = torch.where(worse, loss, self.loss[index])
        self.fooled[index] = fooled | was_fooled
