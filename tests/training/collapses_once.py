"""Training that collapses and recovers, for tests of what a rollback takes back."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.loss.terms import Objective
from withstand.objectives.adversarial import ACCURACY_TERM, LOSS_TERM
from withstand.types import LossTerms


class CollapsesOnce(Objective):
    """Cross-entropy that shows a collapse in one epoch, counted from 0, until it was slowed so many times."""

    def __init__(self, epoch: int, until: int) -> None:
        super().__init__()
        self.epoch, self.until, self.slowed = epoch, until, 0

    @override
    def forward(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> LossTerms:
        is_bad = self.epoch <= progress < self.epoch + 1 and self.slowed < self.until
        shown = (math.log(3), 0.0) if is_bad else (0.1, 0.9)
        terms = dict(zip((LOSS_TERM, ACCURACY_TERM), map(torch.tensor, shown), strict=True))
        return LossTerms(F.cross_entropy(model(images), labels), terms)

    @override
    def slow_down(self, at: float) -> bool:
        self.slowed += 1
        return True
