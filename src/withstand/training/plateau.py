"""Validation scores that no longer rise: smaller learning rates, and an early end.

All of it follows from the training log, so that nothing has to be kept beside it: a training that was
interrupted, or rolled back, goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from withstand.training.checkpoint import Row
from withstand.training.validation import ACCURACY, ROBUST_ACCURACY

__all__ = ["Plateau", "num_bad_epochs", "scores"]


@dataclass(frozen=True)
class Plateau:
    """Multiply the learning rate by ``factor`` where the validation score rises no more.

    After more than ``patience`` epochs in a row without a better score than ever before, as
    ``torch.optim.lr_scheduler.ReduceLROnPlateau`` with a threshold of 0 does; then it counts anew.

    Args:
        factor: In (0, 1).
        patience: Epochs without a better score that are put up with, at least 0.

    Raises:
        ValueError: an argument is out of its range.
    """

    factor: float = 0.5
    patience: int = 5

    def __post_init__(self) -> None:
        if not (0 < self.factor < 1 and self.patience >= 0):
            raise ValueError(
                "A plateau needs a factor in (0, 1) and a patience of at least 0, "
                f"but got {self.factor} and {self.patience}."
            )

    def factor_after(self, values: Sequence[float]) -> float:
        """What the learning rate is multiplied by after epochs of these scores, in (0, 1]."""
        best, num_bad, num_cuts = -math.inf, 0, 0
        for value in values:
            best, num_bad = (value, 0) if value > best else (best, num_bad + 1)
            if num_bad > self.patience:
                num_cuts, num_bad = num_cuts + 1, 0
        return self.factor**num_cuts


def num_bad_epochs(values: Sequence[float]) -> int:
    """How many epochs have gone by since the best score, the first of those that are as good."""
    best = max(values, default=-math.inf)
    return len(values) if best == -math.inf else len(values) - 1 - values.index(best)


def scores(rows: Sequence[Row], num_epochs: int) -> list[float]:
    """The score of each epoch by which the best is chosen.

    Args:
        rows: The training log; of an epoch that was rolled back and done again the last row counts.
        num_epochs: Epochs done; a later one in the log was rolled back.

    Returns:
        Validation accuracy, that under attack where there is one; -inf of a collapsed epoch, which is never
        the best.
    """
    lasting = {int(row["epoch"]): row for row in rows}
    return [_score(lasting[epoch]) for epoch in range(1, num_epochs + 1)]


def _score(row: Mapping[str, float | int | str]) -> float:
    return -math.inf if row["collapsed"] else float(row.get(ROBUST_ACCURACY, row[ACCURACY]))
