"""When adversarial training gives up: telling it, and what to do about it.

At a large epsilon adversarial training can end in a classifier that answers the same whatever
it sees (Shaeiri et al., arXiv 2003.13370): its loss stays at ln(classes), its accuracy at chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Rollback", "has_collapsed"]

_NEAR_CONSTANT = 0.005  # relative distance from ln(classes) that still counts as stuck there
_NEAR_CHANCE = 1.25  # times 1 / classes: a little above chance, since classes are not of equal size


@dataclass(frozen=True)
class Rollback:
    """Go back to the last good epoch and halve the step of epsilon that was too large.

    Each rollback puts in one epoch (``schedules.Eased``). After ``max_rollbacks`` training stops
    with the last good weights.

    Args:
        max_rollbacks: How many to try in the whole run, at least 1.

    Raises:
        ValueError: ``max_rollbacks`` is below 1.
    """

    max_rollbacks: int = 12

    def __post_init__(self) -> None:
        if self.max_rollbacks < 1:
            raise ValueError(f"Expected max_rollbacks of at least 1, but got {self.max_rollbacks}.")


def has_collapsed(loss: float, accuracy: float, num_classes: int) -> bool:
    """Whether the end of an epoch looks like a constant classifier.

    Args:
        loss: Mean adversarial cross-entropy.
        accuracy: Mean accuracy on the same adversarial images, in [0, 1].
        num_classes: At least 2.

    Returns:
        True where the loss is stuck at ln(classes) or the accuracy is at chance.
    """
    constant = math.log(num_classes)
    return abs(loss - constant) <= _NEAR_CONSTANT * constant or accuracy <= _NEAR_CHANCE / num_classes
