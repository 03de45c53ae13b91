"""Plain training."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.terms import Objective
from withstand.types import LossTerms

__all__ = ["CrossEntropy"]


class CrossEntropy(Objective):
    """The mean cross-entropy of the images as they are."""

    @override
    def forward(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> LossTerms:
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        accuracy = (logits.detach().argmax(dim=1) == labels).float().mean()
        return LossTerms(loss, {"cross_entropy": loss.detach(), "accuracy": accuracy})
