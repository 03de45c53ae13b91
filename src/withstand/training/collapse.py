"""When adversarial training gives up: how to recognise it, and what to do about it.

At a large epsilon adversarial training can end in a classifier that answers the same whatever
it sees (Shaeiri et al., arXiv 2003.13370): its loss stays at ln(classes), its accuracy at chance.

It is recognised by averages over an epoch, which stay on the device so that no step waits for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from withstand.core.setting_rules import COUNT, settle
from withstand.objectives.adversarial import ACCURACY_TERM, LOSS_TERM
from withstand.objectives.certified import CLEAN_ACCURACY_TERM, CLEAN_TERM

_TAIL = 0.2  # the share of an epoch, at its end, by which a collapse is recognised


class EpochMeter:
    """Records the loss and terms of each step of one epoch.

    Args:
        num_steps: Steps an epoch.
        device: Where the values lie.
        recorded: Values of the steps already done, when an epoch is resumed.
    """

    def __init__(
        self, num_steps: int, device: torch.device, recorded: Mapping[str, Tensor] | None = None
    ) -> None:
        self._num_steps = num_steps
        self._device = device
        self._values = {name: values.to(device).clone() for name, values in (recorded or {}).items()}

    def record(self, step: int, loss: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Takes the values of one step, without reading them."""
        for name, value in {"loss": loss.detach(), **terms}.items():
            if name not in self._values:
                self._values[name] = torch.full((self._num_steps,), torch.nan, device=self._device)
            self._values[name][step] = value.detach()

    def state(self) -> dict[str, Tensor]:
        """All values by name, for a checkpoint."""
        return {name: values.cpu() for name, values in self._values.items()}

    def first_non_finite(self, num_done: int) -> int | None:
        """The first of the steps done whose loss is NaN or infinite. Reads from the device."""
        if not num_done:
            return None
        bad = (~torch.isfinite(self._values["loss"][:num_done])).nonzero()
        return int(bad[0]) if len(bad) else None

    def means(self) -> dict[str, float]:
        """The mean of each value over the steps of the epoch that recorded it."""
        return {name: float(values.nanmean()) for name, values in self._values.items()}

    def tail_means(self) -> dict[str, float]:
        """The mean of each value over those of the last fifth of the epoch."""
        first = int(self._num_steps * (1 - _TAIL))
        return {name: float(values[first:].nanmean()) for name, values in self._values.items()}


# The loss and accuracy by which a constant answer shows, of whichever objective reports them.
_COLLAPSING = ((LOSS_TERM, ACCURACY_TERM), (CLEAN_TERM, CLEAN_ACCURACY_TERM))

_NEAR_CONSTANT = 0.005  # relative distance from ln(classes) that still counts as stuck there
# Above chance, 1 / classes: a quarter of it, since classes are not of equal size, but little in all.
_ABOVE_CHANCE_SHARE, _ABOVE_CHANCE = 0.25, 0.025


@dataclass(frozen=True)
class Rollback:
    """Go back to the last good epoch and halve the step of epsilon that was too large.

    Each rollback makes two epochs of one (``schedules.Slowed``). Where a collapse outlasts
    ``max_halvings`` of the same step, the step was not its cause: it is reported, and training goes on.

    Args:
        max_halvings: How often to halve the same step, at least 1.
        max_rollbacks: How many rollbacks to try in the whole run, at least 1.

    Raises:
        ValueError: a number is below 1.
    """

    max_halvings: int = 4
    max_rollbacks: int = 12

    def __post_init__(self) -> None:
        settle(self, max_halvings=COUNT, max_rollbacks=COUNT)

    def allows(self, epoch: int, slowed_at: Sequence[int]) -> bool:
        """Whether another rollback to the end of ``epoch`` is allowed after those at ``slowed_at``."""
        return len(slowed_at) < self.max_rollbacks and list(slowed_at).count(epoch) < self.max_halvings


def has_collapsed(loss: float, accuracy: float, num_classes: int) -> bool:
    """Whether the end of an epoch looks like a constant classifier.

    Args:
        loss: Mean adversarial cross-entropy.
        accuracy: Mean accuracy on the same adversarial images, in [0, 1].
        num_classes: At least 2.

    Returns:
        True where the loss is stuck at ln(classes) or the accuracy is at chance.
    """
    constant, chance = math.log(num_classes), 1 / num_classes
    at_chance = accuracy <= chance + min(_ABOVE_CHANCE_SHARE * chance, _ABOVE_CHANCE)
    return abs(loss - constant) <= _NEAR_CONSTANT * constant or at_chance


def shows_collapse(means: Mapping[str, float], num_classes: int) -> bool:
    """Whether an epoch has collapsed, by its mean loss and accuracy where its objective reports these.

    Args:
        means: Name of a term -> its mean over the end of the epoch.
        num_classes: At least 2.
    """
    return any(
        loss in means and has_collapsed(means[loss], means[accuracy], num_classes)
        for loss, accuracy in _COLLAPSING
    )
