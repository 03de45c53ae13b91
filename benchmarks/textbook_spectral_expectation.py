"""The spectral expectation term and Monte Carlo sampling as they were published: nothing is shared or kept.

After Zhang et al., CVPR 2021, algorithm 1: power iteration from a fresh start with a gradient through all of
its steps, whole draws of each weight for the largest entry, and a pass of its own for each weight sample.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from withstand import bayes

__all__ = ["many_passes", "spectral_expectation"]


def spectral_expectation(model: nn.Module, *, num_iterations: int = 10, num_draws: int = 10) -> Tensor:
    """Half the sum of the squared surrogates of all layers.

    Args:
        model: With random linear layers.
        num_iterations: Of power iteration.
        num_draws: Of each weight.
    """
    total = torch.zeros(())
    for _, layer in bayes.variational_layers(model):
        mean, std, _ = layer.normals()["weight"]
        left, right = torch.rand(len(mean)), torch.rand(mean.shape[1])
        for _ in range(num_iterations):
            right = F.normalize(mean.T @ left, dim=0, eps=1e-12)
            left = F.normalize(mean @ right, dim=0, eps=1e-12)
        largest = torch.stack([(torch.randn_like(std) * std).abs().max() for _ in range(num_draws)]).mean()
        norms = std.norm(dim=1).max() + std.norm(dim=0).max()
        total = total + (left @ mean @ right + norms + largest) ** 2
    return total / 2


def many_passes(
    model: nn.Module, images: Tensor, labels: Tensor, *, num_samples: int, divergence_share: float
) -> Tensor:
    """The variational loss, a pass a sample.

    Args:
        model: With random layers.
        images: Tensor (batch, …).
        labels: Tensor (batch,).
        num_samples: Passes.
        divergence_share: Of the divergence in the loss, computed anew in each pass; none where 0.
    """
    total = torch.zeros(())
    for _ in range(num_samples):
        total = total + F.cross_entropy(model(images), labels)
        if divergence_share:
            total = total + divergence_share * _divergence(model)
    return total / num_samples


def _divergence(model: nn.Module) -> Tensor:
    """As the formula reads, entry by entry."""
    total = torch.zeros(())
    for _, layer in bayes.variational_layers(model):
        for mean, std, prior in layer.normals().values():
            entries = 2 * torch.log(prior / std) - 1 + (std / prior) ** 2 + (mean / prior) ** 2
            total = total + 0.5 * entries.sum()
    return total
