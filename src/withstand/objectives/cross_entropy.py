"""Plain training."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from withstand.passes import Pass
from withstand.terms import OnePass
from withstand.types import LossTerms

__all__ = ["CrossEntropy"]


class CrossEntropy(OnePass):
    """The mean cross-entropy of the images as they are."""

    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        logits = passed.logits
        loss = F.cross_entropy(logits, labels)
        accuracy = (logits.detach().argmax(dim=1) == labels).float().mean()
        return LossTerms(loss, {"cross_entropy": loss.detach(), "accuracy": accuracy})
