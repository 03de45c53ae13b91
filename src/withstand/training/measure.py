"""What training measures of a model at the end of each epoch, for its log."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn


class Measure(ABC):
    """The interface of what is looked at once an epoch; what it finds becomes columns of ``train.csv``.

    It leaves the model and torch's random state as they were.
    """

    @abstractmethod
    def of(self, model: nn.Module, images: Tensor) -> Mapping[str, float]:
        """The columns of one epoch.

        Args:
            model: As it is at the end of the epoch.
            images: A few training images (batch, …), the same each time.
        """
