"""The gradient of the loss itself."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from withstand import norms
from withstand.passes import Pass
from withstand.penalties.classwise import GradientPenalty, gradient
from withstand.types import LossTerms


class LossGradient(GradientPenalty):
    """The mean over the batch of ‖∇ₓ ℓ(x_i, y_i)‖₂² or of ‖∇ₓ ℓ(x_i, y_i)‖₁, for cross-entropy ℓ.

    Also called double backpropagation (l2), and to first order adversarial training (l1); Bietti et al.,
    ICML 2019, arXiv 1810.00363, grad-l2 and grad-l1. The gradient is in nats per unit of distance between
    images in [0, 1]. The model is differentiated in eval mode.

    Args:
        norm: 2, which is squared, or 1, which is not.

    Raises:
        ValueError: the norm is neither.
    """

    def __init__(self, norm: Literal[1, 2] = 2) -> None:
        super().__init__()
        if norm not in (1, 2):
            raise ValueError(f"Expected a norm of 1 or 2, but got {norm}.")
        self.norm = int(norm)  # its name is the same for 2.0

    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        _, images, logits = passed.differentiable
        with torch.enable_grad():
            # Not the mean, of which each example's gradient would be only a share.
            total = F.cross_entropy(logits, labels, reduction="sum")
        gradients = gradient(total, images)
        # Not the square of the norm, whose derivative at 0 is none.
        each = gradients.flatten(1).square().sum(dim=1) if self.norm == 2 else norms.norm(gradients, 1.0)
        loss = each.mean()
        return LossTerms(loss, {f"loss_gradient_l{self.norm}": loss.detach()})

    @override
    def extra_repr(self) -> str:
        return f"norm={self.norm}"
