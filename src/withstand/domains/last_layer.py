"""The last layer of a classifier, where worst logits are sought."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from withstand.domains.base import Region

__all__ = ["LastLayer"]


class LastLayer(NamedTuple):
    """What the logits are made of: ``weight z + bias`` for the members z of a set.

    Attributes:
        features: The set, of members (batch, hidden).
        weight: Tensor (classes, hidden).
        bias: Tensor (classes,), or None.
    """

    features: Region
    weight: Tensor
    bias: Tensor | None

    @property
    def logits(self) -> Tensor:
        """Of the features' centers, (batch, classes)."""
        return F.linear(self.features.center, self.weight, self.bias)

    def differences(self, labels: Tensor) -> Tensor:
        """The worst of each logit minus the true one.

        Args:
            labels: True classes (batch,).

        Returns:
            Tensor (batch, classes): upper bounds over the whole set; 0 for the true class.
        """
        logits = self.logits
        return (
            logits - logits.gather(1, labels[:, None]) + self.features.worst_differences(self.weight, labels)
        )
