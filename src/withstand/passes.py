"""One forward pass of a batch, which several terms of an objective share."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from withstand.compiled import uncompiled
from withstand.modes import differs_in_training, eval_mode

__all__ = ["Differentiable", "Pass"]


class Differentiable(NamedTuple):
    """Images that require gradient, and their logits in eval mode, to be differentiated twice.

    Attributes:
        model: What made the logits; not compiled, since compiled graphs can be differentiated once only.
        images: Float tensor (batch, …) that requires gradient.
        logits: Tensor (batch, classes), a function of the images.
    """

    model: nn.Module
    images: Tensor
    logits: Tensor

    @staticmethod
    def of(model: nn.Module, images: Tensor) -> Differentiable:
        """A pass of its own.

        Args:
            model: Maps images in [0, 1] to logits (batch, classes).
            images: Float tensor (batch, …).
        """
        original = uncompiled(model)
        leaf = images.detach().requires_grad_()
        with torch.enable_grad(), eval_mode(original):
            return Differentiable(original, leaf, original(leaf))


class Pass:
    """A batch on its way through a model; each part is computed when it is first asked for.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes).
        images: Float tensor (batch, …), in [0, 1].
        tracks_images: Whether the logits will be differentiated with respect to the images.
    """

    def __init__(self, model: nn.Module, images: Tensor, *, tracks_images: bool = False) -> None:
        self.model = model
        self.given = images
        # Per example a network is what it is in eval mode, so one pass serves for both only where
        # the modes are alike.
        shares = tracks_images and torch.is_grad_enabled() and _is_plain(model)
        self._images = images.detach().requires_grad_() if shares else images

    @cached_property
    def logits(self) -> Tensor:
        """(batch, classes), as the model gives them in its present mode."""
        logits: Tensor = self.model(self._images)
        return logits

    @cached_property
    def differentiable(self) -> Differentiable:
        """Images and logits to be differentiated, of this pass where that is possible."""
        if self._images is not self.given:
            return Differentiable(self.model, self._images, self.logits)
        return Differentiable.of(self.model, self.given)


def _is_plain(model: nn.Module) -> bool:
    return uncompiled(model) is model and not differs_in_training(model)
