"""Gradients of every class's logit, and the one image at which each class is worst."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.modes import eval_mode
from withstand.passes import Differentiable
from withstand.penalties.piecewise import without_curvature
from withstand.terms import OnePass, Penalty


class GradientPenalty(OnePass, Penalty):
    """The interface of a penalty that differentiates the logits with respect to the images."""

    @override
    def differentiates_images(self, progress: float = math.inf) -> bool:
        return True


def gradient(value: Tensor, images: Tensor, *, create_graph: bool = True) -> Tensor:
    """The gradient of a scalar with respect to images.

    Args:
        value: Scalar tensor.
        images: Tensor (batch, …) that requires gradient.
        create_graph: Whether the result shall have a gradient itself.

    Returns:
        Tensor of the shape of ``images``; zero where the value does not depend on them.
    """
    if not value.requires_grad:
        return torch.zeros_like(images)
    with torch.enable_grad():
        (result,) = torch.autograd.grad(value, images, create_graph=create_graph, materialize_grads=True)
    return result


def class_gradients(passed: Differentiable) -> Iterator[Tensor]:
    """The gradient of each class's logit with respect to each image, one class after another.

    Args:
        passed: Images (batch, …) and logits (batch, classes).

    Yields:
        Tensor of the shape of the images, without gradient.
    """
    logits = passed.logits
    for own in torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device):
        if logits.requires_grad:
            (result,) = torch.autograd.grad(
                logits, passed.images, own.expand_as(logits), retain_graph=True, materialize_grads=True
            )
            yield result
        else:
            yield torch.zeros_like(passed.images)


def own_changes(model: nn.Module, images: Tensor, changed: Tensor) -> Tensor:
    """f_k(changed image k) - f_k(image k), for the logit f_k of each class k; in eval mode.

    Args:
        model: Maps images to logits, one a class.
        images: Tensor (classes, …), one image a class.
        changed: Tensor of the same shape.

    Returns:
        Tensor (classes,), with gradient.
    """
    # In full precision, since of a small difference of rounded logits little would be left.
    precise = torch.autocast(images.device.type, enabled=False)
    with precise, torch.enable_grad(), eval_mode(model):
        before, after = model(torch.cat([images, changed])).chunk(2)
        return torch.diagonal(after - before)


def own_gradients(model: nn.Module, images: Tensor) -> Tensor:
    """∇ₓ f_k at image k, for the logit f_k of each class k; in eval mode.

    Args:
        model: Maps images to logits, one a class.
        images: Tensor (classes, …), one image a class.

    Returns:
        Tensor of the shape of ``images``, with gradient.
    """
    leaf = images.detach().requires_grad_()
    with torch.enable_grad(), eval_mode(model), without_curvature(model):
        return gradient(torch.diagonal(model(leaf)).sum(), leaf)
