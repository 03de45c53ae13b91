"""What an attack climbs: one value an example, larger the more it is fooled.

Each is a plain function of (logits, labels), so a user's own function serves as well.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each example.

    Args:
        logits: Tensor (batch, classes).
        labels: Integer tensor (batch,).

    Returns:
        Tensor (batch,), at least 0.
    """
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The best wrong logit minus the true one (Carlini and Wagner, 2017); positive when fooled.

    Args:
        logits: Tensor (batch, classes), at least two classes.
        labels: Integer tensor (batch,).

    Returns:
        Tensor (batch,).
    """
    column = labels[:, None]
    return logits.scatter(1, column, -torch.inf).amax(dim=1) - logits.gather(1, column).squeeze(1)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """The difference of logits ratio (Croce and Hein, ICML 2020, eq. 6): free of the logits' scale.

    Args:
        logits: Tensor (batch, classes), at least three classes.
        labels: Integer tensor (batch,).

    Returns:
        Tensor (batch,), positive when fooled.

    Raises:
        ValueError: there are fewer than three classes.
    """
    if logits.shape[1] < 3:
        raise ValueError(
            f"The DLR loss needs at least 3 classes, but got {logits.shape[1]}: use margin instead."
        )
    largest = logits.topk(3, dim=1).values
    spread = (largest[:, 0] - largest[:, 2]).clamp_min(torch.finfo(logits.dtype).tiny)
    return margin(logits, labels) / spread
