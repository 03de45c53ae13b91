"""Kernel-norm penalties as their formulas read, to compare with: no step is shared or left out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["adversarial_perturbation", "input_gradient", "loss_gradient", "project_spectral"]


def input_gradient(model: nn.Module, images: Tensor) -> Tensor:
    """The squared gradients of all logits of all images, with a graph; then the largest of each class."""
    images = images.clone().requires_grad_()
    logits = model(images)
    squares = []
    for own in logits.unbind(dim=1):
        (gradients,) = torch.autograd.grad(own.sum(), images, create_graph=True)
        squares.append(gradients.flatten(1).square().sum(dim=1))
    return torch.stack(squares).amax(dim=1).sum()


def loss_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The mean squared gradient of the loss, from a forward pass of its own."""
    images = images.clone().requires_grad_()
    loss = F.cross_entropy(model(images), labels, reduction="sum")
    (gradients,) = torch.autograd.grad(loss, images, create_graph=True)
    return gradients.flatten(1).square().sum(dim=1).mean()


def adversarial_perturbation(model: nn.Module, images: Tensor, epsilon: float, num_steps: int) -> Tensor:
    """Every image climbs for every class; gradients go to the weights too and are thrown away."""
    num_classes = model(images[:1]).shape[1]
    repeated = images.repeat(num_classes, *[1] * (images.dim() - 1))
    classes = torch.arange(num_classes).repeat_interleave(len(images))[:, None]
    delta = torch.zeros_like(repeated)
    for _ in range(num_steps):
        delta.requires_grad_()
        model(repeated + delta).gather(1, classes).sum().backward()
        assert delta.grad is not None
        gradients = delta.grad.flatten(1)
        step = gradients / gradients.norm(dim=1, keepdim=True).clamp_min(1e-12)
        moved = delta.detach().flatten(1) + 1.5 * epsilon / num_steps * step
        delta = (moved * (epsilon / moved.norm(dim=1, keepdim=True).clamp_min(epsilon))).view_as(repeated)
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        gains = (model(repeated + delta) - model(repeated)).gather(1, classes).view(num_classes, -1)
    rows = gains.argmax(dim=1) + torch.arange(num_classes) * len(images)
    change = model(repeated[rows] + delta[rows]) - model(repeated[rows])
    loss: Tensor = change.diagonal().square().sum()
    return loss


def project_spectral(model: nn.Module, radius: float) -> None:
    """A full decomposition of every weight, and all of it put together again."""
    for weight in model.parameters():
        if weight.dim() > 1:
            left, values, right = torch.linalg.svd(weight.data.flatten(1), full_matrices=False)
            weight.data = ((left * values.clamp(max=radius)) @ right).view_as(weight)
