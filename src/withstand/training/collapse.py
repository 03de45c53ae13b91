"""When adversarial training gives up: how to recognise it, and what to do about it.

At a large epsilon adversarial training can end in a classifier that answers the same whatever
it sees (Shaeiri et al., arXiv 2003.13370): its loss stays at ln(classes), its accuracy at that of a guess.

Averages over an epoch, which stay on the device so that no step waits for them, say whether it may have. They
cannot tell slow progress from none, so where they say so the model's answers are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from withstand.core.setting_rules import COUNT, settle
from withstand.data import Split
from withstand.objectives.adversarial import ACCURACY_TERM, LOSS_TERM
from withstand.objectives.certified import CLEAN_ACCURACY_TERM, CLEAN_TERM
from withstand.training.validation import predictions

_TAIL = 0.2  # the share of an epoch, at its end, by which a collapse is recognised


class EpochMeter:
    """Records the loss and terms of each step of one epoch.

    Args:
        num_steps: Steps an epoch.
        device: Where the values lie.
        recorded: Values of the steps already done, when an epoch is resumed.
        last_share: Images that are left for the last step, as a share of those of any other; above 1 where
            some of them are dropped.
    """

    def __init__(
        self,
        num_steps: int,
        device: torch.device,
        recorded: Mapping[str, Tensor] | None = None,
        *,
        last_share: float = 1.0,
    ) -> None:
        self._num_steps = num_steps
        self._last_share = min(1.0, last_share)
        self._device = device
        self._known = {name: values.to(device).clone() for name, values in (recorded or {}).items()}
        # Names and values of steps, put into their places when they are read.
        self._new: list[tuple[int, tuple[str, ...], Tensor]] = []

    def record(self, step: int, loss: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Takes the values of one step, without reading them."""
        self._new.append((step, ("loss", *terms), torch.stack([loss.detach(), *terms.values()]).detach()))

    def state(self) -> dict[str, Tensor]:
        """All values by name, for a checkpoint."""
        return {name: values.cpu() for name, values in self._values.items()}

    @property
    def _values(self) -> dict[str, Tensor]:
        """Name -> the value of each step, NaN of those that are not done or did not record it."""
        for step, names, values in self._new:
            for name, value in zip(names, values, strict=True):
                if name not in self._known:
                    self._known[name] = torch.full((self._num_steps,), torch.nan, device=self._device)
                self._known[name][step] = value
        self._new = []
        return self._known

    def first_non_finite(self, num_done: int) -> int | None:
        """The first of the steps done whose loss is NaN or infinite. Reads from the device."""
        if not num_done:
            return None
        bad = (~torch.isfinite(self._values["loss"][:num_done])).nonzero()
        return int(bad[0]) if len(bad) else None

    def means(self) -> dict[str, float]:
        """The mean of each value over the steps of the epoch that recorded it."""
        return {name: float(values.nanmean()) for name, values in self._values.items()}

    @property
    def _tail_start(self) -> int:
        """Where the last fifth of the epoch's steps begins."""
        return int(self._num_steps * (1 - _TAIL))

    def tail_of(self, order: Tensor, batch_size: int) -> Tensor:
        """The images of the last fifth of the epoch's steps, of all in the order of the epoch."""
        return order[self._tail_start * batch_size : self._num_steps * batch_size]

    def tail_means(self) -> dict[str, float]:
        """The mean of each value over the images of the last fifth of the epoch's steps."""
        shares = torch.ones(self._num_steps - self._tail_start, device=self._device)
        shares[-1] = self._last_share
        means: dict[str, float] = {}
        for name, values in self._values.items():
            tail = values[self._tail_start :]
            means[name] = float((tail * shares).nansum() / shares[~tail.isnan()].sum())
        return means


# The loss and accuracy by which a constant answer may show, of whichever objective reports them.
_COLLAPSING = ((LOSS_TERM, ACCURACY_TERM), (CLEAN_TERM, CLEAN_ACCURACY_TERM))

_NEAR_CONSTANT = 0.005  # relative distance from ln(classes) that still counts as stuck there
# Above chance: a quarter of it, since batches differ, but little in all.
_ABOVE_CHANCE_SHARE, _ABOVE_CHANCE = 0.25, 0.025
_OTHER_ANSWERS = 0.1  # of the labels beside the commonest: so many may be answered otherwise


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


def has_collapsed(
    loss: float, accuracy: float, num_classes: int, *, label_share: float | None = None
) -> bool:
    """Whether the end of an epoch may be that of a constant classifier, as far as averages tell.

    Args:
        loss: Mean adversarial cross-entropy.
        accuracy: Mean accuracy on the same adversarial images, in [0, 1].
        num_classes: At least 2.
        label_share: Of the commonest class among these images; 1 / num_classes where None.

    Returns:
        True where the accuracy is that of always answering the commonest class; or where the loss is stuck at
        ln(classes) and the accuracy no farther than half-way from there to 1.
    """
    constant, chance = math.log(num_classes), 1 / num_classes if label_share is None else label_share
    is_stuck = abs(loss - constant) <= _NEAR_CONSTANT * constant and accuracy <= (1 + chance) / 2
    return is_stuck or _is_at_chance(accuracy, chance)


def _is_at_chance(accuracy: float, chance: float) -> bool:
    return accuracy <= chance + min(_ABOVE_CHANCE_SHARE * chance, _ABOVE_CHANCE)


class Verdict(NamedTuple):
    """What an epoch has come to.

    Attributes:
        has_collapsed: The model answers one class, and training was no better than that.
        is_good: Neither that, nor was it no better than a guess in both loss and accuracy, from which a
            collapse follows where difficulty rises on.
    """

    has_collapsed: bool
    is_good: bool


def verdict(
    model: nn.Module, means: Mapping[str, float], seen: Split, validation: Split, num_classes: int
) -> Verdict:
    """What an epoch came to by its end, where its objective reports loss and accuracy of what it trains on.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes); its modes stay as they were.
        means: Name of a term -> its mean over the end of the epoch.
        seen: The training images of that end.
        validation: By whose answers it is decided; where it is empty by those of the images seen.
        num_classes: At least 2.
    """
    chance = commonest(seen.labels)
    figures = [(means[loss], means[accuracy]) for loss, accuracy in _COLLAPSING if loss in means]
    may_have = any(has_collapsed(*figure, num_classes, label_share=chance) for figure in figures)
    collapsed = may_have and is_constant(model, validation or seen)
    least = (1 - _NEAR_CONSTANT) * math.log(num_classes)
    is_a_guess = any(loss >= least and _is_at_chance(accuracy, chance) for loss, accuracy in figures)
    return Verdict(collapsed, not (collapsed or is_a_guess))


def is_constant(model: nn.Module, split: Split) -> bool:
    """Whether nearly all answers are one class, and the labels are not.

    Then they agree with the labels hardly more than that class alone does.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes); its modes stay as they were.
        split: Not empty, on the device of the model.
    """
    others = 1 - commonest(split.labels)
    return others > 0 and 1 - commonest(predictions(model, split)) <= _OTHER_ANSWERS * others


def commonest(classes: Tensor) -> float:
    """The share of the commonest class: those of -1 are of none.

    Args:
        classes: int64 tensor (examples,), not empty.
    """
    counts = (classes + 1).bincount(minlength=2)[1:]
    return float(counts.max()) / len(classes)
