"""Cross-entropy with what users set of it: softer labels, and how much each class counts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.core.setting_rules import AT_LEAST_0, Number, list_of, optional, settle
from withstand.types import ModelError


class LabelLoss(nn.Module):
    """w_y ((1 - s) CE(f(x), y) + s / K Σ_j CE(f(x), j)), for K classes, the smoothing s and the weights w.

    Label smoothing is that of Szegedy et al., CVPR 2016, section 7. A weight is that of an example, by its
    label, and only the ratios of weights count: they are scaled to a mean of 1 over the classes. The mean is
    over the examples, and not divided by their weights as in torch, so that parts of a batch add up to it.

    Args:
        label_smoothing: s, at least 0 and below 1.
        class_weights: w, a number of at least 0 for each class; all alike where None.

    Raises:
        ValueError: a number is out of its range, or all weights are 0.
    """

    _weights: Tensor | None

    def __init__(self, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        settle(
            self,
            label_smoothing=Number(least=0.0, below=1.0),
            class_weights=optional(list_of(AT_LEAST_0, least=2)),
        )
        scaled = None
        if self.class_weights is not None:
            total = sum(self.class_weights)
            if not total:
                raise ValueError("Expected class_weights of which one is above 0, but all are 0.")
            if math.isinf(total):
                raise ValueError("Expected class_weights with a sum that is finite: only ratios count.")
            scaled = torch.tensor([weight * len(self.class_weights) / total for weight in self.class_weights])
        self.register_buffer("_weights", scaled, persistent=False)  # made of settings, so in no checkpoint

    @override
    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over a batch.

        Args:
            logits: Tensor (batch, classes).
            labels: Integer tensor (batch,).

        Raises:
            ModelError: there are not as many weights as classes.
        """
        if self._weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return self.example_losses(logits, labels).mean()

    def example_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The losses of single examples, (batch,); arguments and errors as of a call."""
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)
        weights = self._weights
        if weights is None:
            return losses
        if len(weights) != logits.shape[1]:
            raise ModelError(
                f"Expected one of class_weights for each of the model's {logits.shape[1]} classes, but got "
                f"{len(weights)}."
            )
        return losses * weights.to(losses)[labels]

    @override
    def extra_repr(self) -> str:
        return f"label_smoothing={self.label_smoothing:g}, class_weights={self.class_weights}"


class WithLabelLoss:
    """What an objective with a ``LabelLoss`` says of its settings, by the names that recipes have."""

    label_loss: LabelLoss

    @property
    def label_smoothing(self) -> float:
        """Share of a label that is spread over all classes."""
        return self.label_loss.label_smoothing

    @property
    def class_weights(self) -> Sequence[float] | None:
        """How much an example counts by its class, as it was given."""
        return self.label_loss.class_weights
