"""Gradients of every class's logit, and the one image at which each class is worst.

Also second derivatives that need not be computed, because they are zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.core.modes import eval_mode
from withstand.loss.passes import Differentiable, differentiable_twice
from withstand.loss.terms import OnePass, Penalty
from withstand.models import GroupSort, MinMax, Normalize
from withstand.models.blocks import Residual

# Linear wherever they have a gradient.
_PIECES: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardtanh),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(MinMax, GroupSort),
)
# In eval mode, which is what gradients are of.
_LINEAR: tuple[type[nn.Module], ...] = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout2d, Normalize),
)
_WITH_STATISTICS: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CONTAINERS: tuple[type[nn.Module], ...] = (nn.Sequential, Residual)


def is_piecewise_linear(model: nn.Module) -> bool:
    """Whether the model is made of nothing but linear and piecewise linear layers that are known here.

    A module of one's own may compute anything in its ``forward``, and so may a hook, so a model with one
    of these is not.
    """
    return all(_is_known(module) and not _has_hooks(module) for module in model.modules())


def _is_known(module: nn.Module) -> bool:
    if type(module) in _WITH_STATISTICS:
        return getattr(module, "running_mean", None) is not None  # else they are those of the batch
    return type(module) in (*_PIECES, *_LINEAR, *_CONTAINERS)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


@dataclass
class _Gate:
    """Whether gradients still pass."""

    is_open: bool = True


class _Through(torch.autograd.Function):
    """The identity; its gradient ends here once the gate is closed."""

    @staticmethod
    @override
    def forward(ctx: Any, x: Tensor, gate: _Gate) -> Tensor:
        ctx.gate = gate
        return x.view_as(x)

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None]:
        return (gradients[0] if ctx.gate.is_open else None), None


@contextmanager
def without_curvature(model: nn.Module) -> Iterator[None]:
    """A forward pass and its gradient inside; what is differentiated after it is the gradient alone.

    The gradient of a piecewise linear network with respect to its images depends on the weights directly,
    not through the activations. Autograd does not know this: it would carry zeros back through the whole
    forward pass, at the price of another backward pass. Here that ends at each activation once the
    block is left. Any other network is left as it is.

    Args:
        model: What is run inside, in eval mode and once. After the block nothing but the gradient may be
            used.

    Yields:
        Nothing.
    """
    gate = _Gate()

    def enter(_: nn.Module, args: tuple[Tensor]) -> Tensor:
        through: Tensor = _Through.apply(args[0], gate)  # type: ignore[no-untyped-call]
        return through

    hooks = [
        module.register_forward_pre_hook(enter)
        for module in (model.modules() if is_piecewise_linear(model) else ())
        # One that works in place would write over what the identity gives.
        if isinstance(module, _PIECES) and not getattr(module, "inplace", False)
    ]
    try:
        yield
    finally:
        gate.is_open = False
        for hook in hooks:
            hook.remove()


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
    with torch.enable_grad(), eval_mode(model):
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
    with torch.enable_grad(), eval_mode(model), without_curvature(model), differentiable_twice(model):
        return gradient(torch.diagonal(model(leaf)).sum(), leaf)
