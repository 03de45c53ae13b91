"""Where many functions of one number cross 0: all at once, with few evaluations."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_FIRST = 0.01  # the first trial, as a part of the farthest point
_SMALLEST = 2.0**-40  # below this part of it nothing more is sought
_GROWTH = 8.0  # from one trial to the next, at most
_MOST_TRIALS = 100


def largest_positive(
    value: Callable[[Tensor, Tensor], Tensor], at_zero: Tensor, farthest: float, tolerance: float
) -> Tensor:
    """The largest point of each function, as far as is seen, at which its value is positive.

    Args:
        value: (indices of functions (num,), a point for each (num,)) -> their values (num,), which
            should decrease; minus infinity where there is none.
        at_zero: Values at 0, (functions,).
        farthest: No point beyond it is tried.
        tolerance: How far below the crossing the point may stay, relative; in (0, 1).

    Returns:
        Tensor (functions,): points at each of which the value was positive when it was tried; 0
        where it is not positive at 0, or nowhere else.
    """
    largest = torch.zeros_like(at_zero)
    rows = (at_zero > 0).nonzero().squeeze(1)
    search = _Search.begun(at_zero[rows])
    trial = torch.full_like(search.low, _FIRST * farthest)
    for _ in range(_MOST_TRIALS):
        if not len(rows):
            break
        search = search.after(trial, value(rows, trial))
        largest[rows] = search.low
        is_open = ~search.is_done(farthest, tolerance)
        rows, search = rows[is_open], _Search(*(part[is_open] for part in search))
        trial = search.trial(farthest, tolerance)
    return largest


def farther(
    value: Callable[[Tensor, Tensor], Tensor],
    reached: Tensor,
    at_zero: Tensor,
    farthest: float,
    tolerance: float,
) -> Tensor:
    """``largest_positive`` of functions that are known to be positive at some points already.

    Each is tried just beyond its point first; most often that is all.

    Args:
        value: As of ``largest_positive``.
        reached: A point of each at which its value is positive, or 0, (functions,).
        at_zero: As of ``largest_positive``.
        farthest: As of ``largest_positive``.
        tolerance: As of ``largest_positive``.
    """
    rows = ((at_zero > 0) & (reached < farthest)).nonzero().squeeze(1)
    start, at_start = (reached[rows] * (1 + tolerance)).clamp_max(farthest), at_zero[rows]
    is_known = start > 0
    if is_known.any():
        at_start[is_known] = value(rows[is_known], start[is_known]).to(at_start.dtype)

    def beyond(index: Tensor, more: Tensor) -> Tensor:
        return value(rows[index], (start[index] + more).clamp_max(farthest))

    more = largest_positive(beyond, at_start, farthest, tolerance)
    result = reached.clone()
    result[rows] = torch.where(at_start > 0, (start + more).clamp_max(farthest), reached[rows])
    return result


class _Search(NamedTuple):
    """Regula falsi with the Illinois rule.

    Each trial is where the line through two known points crosses 0. One of them is the largest with
    a positive value. The other is the smallest without; before there is one, the largest positive
    but one. An end that stays while the other moves twice has its value halved, or it would stay
    for ever.

    Attributes:
        low: The largest point with a positive value, (functions,).
        at_low: The value there.
        other: The other point.
        at_other: The value there; not positive where ``other`` is an upper end.
        was_positive: Whether the last trial's value was.
    """

    low: Tensor
    at_low: Tensor
    other: Tensor
    at_other: Tensor
    was_positive: Tensor

    @classmethod
    def begun(cls, at_zero: Tensor) -> _Search:
        """Nothing is known but the value at 0."""
        zero = torch.zeros_like(at_zero)
        return cls(zero, at_zero, zero, at_zero, torch.ones_like(at_zero, dtype=torch.bool))

    @property
    def is_bracketed(self) -> Tensor:
        """Whether an upper end is known."""
        return self.at_other <= 0

    def after(self, trial: Tensor, value: Tensor) -> _Search:
        """What is known after another trial."""
        is_positive, is_bracketed = value > 0, self.is_bracketed
        factor = torch.where(is_bracketed & (is_positive == self.was_positive), 0.5, 1.0)
        keeps_other = is_bracketed & is_positive
        former, at_former = self.low, self.at_low
        return _Search(
            low=torch.where(is_positive, trial, former),
            at_low=torch.where(is_positive, value, at_former * factor),
            other=torch.where(keeps_other, self.other, torch.where(is_positive, former, trial)),
            at_other=torch.where(
                keeps_other, self.at_other * factor, torch.where(is_positive, at_former, value)
            ),
            was_positive=is_positive,
        )

    def is_done(self, farthest: float, tolerance: float) -> Tensor:
        """Whether there is nothing left to find."""
        is_narrow = self.other - self.low <= tolerance * self.other
        is_zero = self.other <= _SMALLEST * farthest
        return (self.is_bracketed & (is_narrow | is_zero)) | (self.low >= farthest)

    def trial(self, farthest: float, tolerance: float) -> Tensor:
        """What to try next: near the crossing, but no nearer to an end than matters."""
        step = tolerance / 2 * torch.maximum(self.low, self.other)
        beyond = (_GROWTH * self.low).clamp_max(farthest)
        least, most = self.low + step, torch.where(self.is_bracketed, self.other - step, beyond)
        crossing = self.low + self.at_low * (self.other - self.low) / (self.at_low - self.at_other)
        # Values that are infinite, rise or are 0 give no useful line. Nor is the crossing itself tried:
        # where the function is a line its value there is rounding, of either sign when tried again.
        is_useful = (crossing > self.low) & (~self.is_bracketed | (crossing < self.other))
        likely = torch.where(is_useful, crossing * (1 - tolerance / 4), (least * most).sqrt())
        return torch.minimum(torch.maximum(likely, least), most)
