"""Which class a model's outputs answer, if any: the one home of what NaN and infinity count as.

Outputs have probabilities where their largest is a finite number. Where one is NaN, or the largest is
infinite, the softmax is NaN: that is no answer, which is correct of no label and agrees with nothing. A class
that is masked by minus infinity beside finite ones is an ordinary one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # reports are made without torch
    from torch import Tensor

NO_ANSWER = -1
"""The class of outputs that have no probabilities."""


def predicted(outputs: Tensor, dim: int = 1) -> Tensor:
    """The class of the largest output, or ``NO_ANSWER``; nothing waits for the device.

    Args:
        outputs: Logits, log-probabilities or probabilities, with the classes in ``dim``.
        dim: Where the classes are.

    Returns:
        int64 tensor, of the shape of ``outputs`` without that dimension.
    """
    largest, classes = outputs.detach().max(dim=dim)  # NaN where any is
    return classes.where(_is_finite(largest), NO_ANSWER)


def is_correct(outputs: Tensor, labels: Tensor) -> Tensor:
    """Whether the true class is the answer: bool tensor (batch,).

    Args:
        outputs: Tensor (batch, classes), as of ``predicted``.
        labels: Integer tensor (batch,), at least 0.
    """
    largest, classes = outputs.detach().max(dim=1)
    return (classes == labels).logical_and_(_is_finite(largest))


def _is_finite(values: Tensor) -> Tensor:
    """As ``isfinite`` has it, in a fourth of its time: this is of every step."""
    return values.abs() < math.inf
