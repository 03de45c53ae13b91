"""Values that change while training: a schedule is a function of the epochs done.

Whatever is scheduled takes ``progress``, a float of epochs done, and a plain float is a
constant schedule. Without ``progress`` a schedule is at its end (``progress = inf``), so
that an objective used outside a training loop works at its final strength.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from withstand.core.setting_rules import (
    AT_LEAST_0,
    FINITE,
    POSITIVE,
    PROBABILITY,
    SHARE,
    Number,
    Rule,
    instance_of,
    list_of,
    settle,
)

__all__ = [
    "Constant",
    "Continuation",
    "Exponential",
    "Join",
    "Linear",
    "PerEpoch",
    "Schedule",
    "Slowed",
    "Stages",
    "StepDecay",
    "scheduled",
    "slower",
    "value_at",
]


class Schedule(ABC):
    """A float as a function of the epochs done."""

    @abstractmethod
    def __call__(self, progress: float = math.inf) -> float:
        """The value when ``progress`` epochs are done.

        Args:
            progress: Epochs done, at least 0; 2.5 is the middle of the third epoch.

        Returns:
            The value; at infinity, the value at which the schedule ends.
        """


def value_at(schedule: float | Schedule, progress: float = math.inf) -> float:
    """The value of a schedule or of a plain float, which is a constant schedule."""
    return schedule(progress) if isinstance(schedule, Schedule) else float(schedule)


a_schedule = instance_of(Schedule, "a schedule, such as Linear(start=0, end=0.3, epochs=10)")


def scheduled(rule: Number, *, least: float | None = None) -> Rule:
    """The rule of a number or of a schedule of it, whose first and last values must lie in the range.

    A schedule may end at a bound that a number must not reach, such as 0: it only gets near.

    Args:
        rule: Of the number.
        least: Of a schedule's values, where that is another: what reads it may round up.
    """
    lowest = max(rule.least, rule.above) if least is None else least
    closed = Number(lowest, min(rule.most, rule.below))

    def check(name: str, value: Any) -> float | Schedule:
        if not isinstance(value, Schedule):
            return rule(name, value)
        for progress in (0.0, math.inf):
            closed(f"all values of {name}", value(progress))
        return value

    return check


@dataclass(frozen=True)
class Constant(Schedule):
    """The same value at all times."""

    value: float

    def __post_init__(self) -> None:
        settle(self, value=FINITE)

    @override
    def __call__(self, progress: float = math.inf) -> float:
        return self.value


@dataclass(frozen=True)
class _Ramp(Schedule, ABC):
    """From one value to another, over some epochs."""

    start: float
    end: float
    epochs: float
    begin: float = 0.0

    def __post_init__(self) -> None:
        settle(self, start=FINITE, end=FINITE, epochs=POSITIVE, begin=AT_LEAST_0)

    def _share(self, progress: float) -> float:
        """How much of the ramp is done, in [0, 1]: exactly 1 from the float ``begin + epochs`` on."""
        is_done = progress >= self.begin + self.epochs
        return 1.0 if is_done else max(0.0, (progress - self.begin) / self.epochs)


@dataclass(frozen=True)
class Linear(_Ramp):
    """From ``start`` to ``end`` in a straight line; exactly ``end`` from then on.

    Args:
        start: Value until ``begin``.
        end: Value from ``begin + epochs`` on.
        epochs: Length of the ramp, positive.
        begin: Epochs done when the ramp begins (a warm-up at ``start`` before it).

    Raises:
        ValueError: ``epochs`` is not positive or ``begin`` is negative.
    """

    @override
    def __call__(self, progress: float = math.inf) -> float:
        share = self._share(progress)
        return self.end if share >= 1 else self.start + share * (self.end - self.start)


@dataclass(frozen=True)
class Exponential(_Ramp):
    """From ``start`` to ``end`` by a constant factor per epoch; exactly ``end`` from then on.

    Args:
        start: Value until ``begin``, positive.
        end: Value from ``begin + epochs`` on, positive.
        epochs: Length of the ramp, positive.
        begin: Epochs done when the ramp begins.

    Raises:
        ValueError: an end point is not positive, ``epochs`` not positive, or ``begin`` negative.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, start=POSITIVE, end=POSITIVE)

    @override
    def __call__(self, progress: float = math.inf) -> float:
        share = self._share(progress)
        return self.end if share >= 1 else self.start * (self.end / self.start) ** share


@dataclass(frozen=True)
class Continuation(Schedule):
    """From far above down to ``end``: ``end (1 + excess exp(-progress / epochs))``.

    A radius that shrinks so lets a net learn before it is held tight (arXiv 1810.00363, whose
    ``tau (1 + 4 exp(-epoch / kappa))`` has kappa 2, and 50 in its robust recipe).

    Args:
        end: Value that is approached; reached at infinity.
        excess: How many times ``end`` lies on top of it at the start, at least 0.
        epochs: Epochs after which the excess has dropped to 1/e of what it was, positive.

    Raises:
        ValueError: ``epochs`` is not positive or ``excess`` is negative.
    """

    end: float
    excess: float = 4.0
    epochs: float = 2.0

    def __post_init__(self) -> None:
        settle(self, end=FINITE, excess=AT_LEAST_0, epochs=POSITIVE)

    @override
    def __call__(self, progress: float = math.inf) -> float:
        return self.end * (1 + self.excess * math.exp(-progress / self.epochs))


@dataclass(frozen=True)
class Stages(Schedule):
    """Piecewise constant: ``values[k]`` for ``epochs[k]`` epochs, the last value ever after.

    Extended adversarial training is a pair of stages (Shaeiri et al., arXiv 2003.13370):
    ``Stages(values=[0.3, 0.4], epochs=[30, 5])``.

    Args:
        values: One value a stage.
        epochs: Length of each stage, positive, as many as there are values.

    Raises:
        ValueError: there is no stage, the lengths differ in number, or one is not positive.
    """

    values: Sequence[float]
    epochs: Sequence[float]

    def __post_init__(self) -> None:
        settle(self, values=list_of(FINITE), epochs=list_of(POSITIVE))
        if len(self.values) != len(self.epochs):
            raise ValueError(
                "Stages needs as many epochs as values, "
                f"but got values {list(self.values)} and epochs {list(self.epochs)}."
            )

    @override
    def __call__(self, progress: float = math.inf) -> float:
        end = 0.0
        for value, epochs in zip(self.values, self.epochs, strict=True):
            end += epochs
            if progress < end:
                return value
        return self.values[-1]


@dataclass(frozen=True)
class StepDecay(Schedule):
    """``factor`` ** k after k times ``epochs`` epochs; 0 at infinity.

    Args:
        factor: In (0, 1).
        epochs: Length of each step, positive.

    Raises:
        ValueError: an argument is out of its range.
    """

    factor: float
    epochs: float

    def __post_init__(self) -> None:
        settle(self, factor=PROBABILITY, epochs=POSITIVE)

    @override
    def __call__(self, progress: float = math.inf) -> float:
        return 0.0 if math.isinf(progress) else self.factor ** math.floor(progress / self.epochs)


@dataclass(frozen=True)
class Join(Schedule):
    """One schedule after another, each on its own clock that starts at its boundary.

    Args:
        schedules: The schedules, in order.
        boundaries: Epochs done at which the next one takes over, ascending, one fewer.

    Raises:
        ValueError: the numbers do not fit or the boundaries do not ascend.
    """

    schedules: Sequence[Schedule]
    boundaries: Sequence[float]

    def __post_init__(self) -> None:
        settle(self, schedules=list_of(a_schedule), boundaries=list_of(AT_LEAST_0, least=0))
        ascending = all(a < b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False))
        if len(self.boundaries) != len(self.schedules) - 1 or not ascending:
            raise ValueError(
                "Join needs one ascending boundary between each two schedules, "
                f"but got {len(self.schedules)} schedules and boundaries {list(self.boundaries)}."
            )

    @override
    def __call__(self, progress: float = math.inf) -> float:
        index = sum(progress >= boundary for boundary in self.boundaries)
        start = self.boundaries[index - 1] if index else 0.0
        return self.schedules[index](progress - start)


@dataclass(frozen=True)
class PerEpoch(Schedule):
    """Holds a schedule still within each epoch, at the value it reaches at that epoch's end.

    IAT (arXiv 2003.13370) trains its 1-based epoch e at epsilon 0.01 e:
    ``PerEpoch(Linear(start=0, end=0.4, epochs=40))``.
    """

    schedule: Schedule

    def __post_init__(self) -> None:
        settle(self, schedule=a_schedule)

    @override
    def __call__(self, progress: float = math.inf) -> float:
        return self.schedule(progress if math.isinf(progress) else math.floor(progress) + 1)


@dataclass(frozen=True)
class Slowed(Schedule):
    """A schedule whose epoch after ``at`` takes two, so that its value rises half as fast there.

    A ramp has half its slope for those two epochs. Of a jump at ``at`` itself the first of them takes
    ``share``, the second all. Everything later happens one epoch later. To slow down again halves
    the step again.

    Args:
        schedule: What to slow down; a plain float is slowed from 0, at the very start only.
        at: Epochs done when the hard step begins; whole.
        share: How much of a jump the first epoch takes, in [0, 1]; 1 only delays what follows.
    """

    schedule: float | Schedule
    at: float
    share: float = 0.5

    def __post_init__(self) -> None:
        settle(self, schedule=scheduled(FINITE), at=AT_LEAST_0, share=SHARE)

    @override
    def __call__(self, progress: float = math.inf) -> float:
        if progress < self.at:
            return value_at(self.schedule, progress)
        if progress >= self.at + 2:
            return value_at(self.schedule, progress - 1)
        slowed = value_at(self.schedule, self.at + (progress - self.at) / 2)
        if progress >= self.at + 1 or self.share == 1:
            return slowed
        # Just before `at`; at the very start nothing was asked of the model, which is 0.
        before = value_at(self.schedule, math.nextafter(self.at, -math.inf)) if self.at > 0 else 0.0
        return slowed - (1 - self.share) * (value_at(self.schedule, self.at) - before)


def slower(schedule: float | Schedule, at: float) -> Slowed | None:
    """The schedule with its step at epoch ``at`` halved; None where that asks for no less.

    Args:
        schedule: Of epsilon, or of another difficulty.
        at: Epochs done when the hard step begins; whole.
    """
    slowed, middle = Slowed(schedule, at), at + 0.5
    return slowed if slowed(middle) < value_at(schedule, middle) else None
