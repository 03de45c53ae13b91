"""Models from whose answers no gradient leads back to the image, made fit for attacks that ask for one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override


def connected(model: nn.Module, images: Tensor) -> nn.Module:
    """The model where its answers have a gradient with respect to the image; else one whose gradient is 0.

    Some defences take the gradient away. An attack that asks for it should find none and say so, not break.

    Args:
        model: In eval mode; maps images in [0, 1] to logits (batch, classes).
        images: Float tensor (batch, …) in [0, 1] to try it on.
    """
    with torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        logits: Tensor = model(leaf)
        if logits.requires_grad and torch.autograd.grad(logits.sum(), leaf, allow_unused=True)[0] is not None:
            return model
    return _Flat(model)


class _Flat(nn.Module):
    """Answers as a model does, with a gradient of 0."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, …)."""
        logits: Tensor = self.model(images)
        return logits.detach() + 0.0 * images.flatten(1).sum(dim=1, keepdim=True)
