"""The interface of whatever holds weights in a set while they are trained."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import nn


class Constraint(nn.Module, ABC):
    """The interface of a set that weights must not leave.

    Training calls ``prepare`` first, ``after_step_`` after each step of the optimiser, and ``project_`` at
    the end of each epoch, so that what is scored and saved lies in the set. What a constraint keeps are
    buffers, which move with the device and are saved in the checkpoint.
    """

    def prepare(self, input_shape: Sequence[int]) -> None:
        """Hears what the model will be given, for a set that depends on it; the default does not care.

        Args:
            input_shape: Shape of one image.
        """

    @abstractmethod
    def project_(self, model: nn.Module, *, progress: float = math.inf) -> None:
        """Puts the weights into the set, in place.

        Args:
            model: Whose weights.
            progress: Epochs done; at infinity (the default) every schedule stands at its end.
        """

    def after_step_(self, model: nn.Module, *, step: int, progress: float) -> None:
        """What is done after one step; the projection unless a constraint knows a cheaper way.

        Args:
            model: Whose weights.
            step: Steps done, from 1.
            progress: Epochs done.
        """
        self.project_(model, progress=progress)
