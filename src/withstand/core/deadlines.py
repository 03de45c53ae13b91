"""Time that is up: work within ``until`` ends soon after its deadline, wherever it then is."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_deadline: ContextVar[float] = ContextVar("_deadline", default=math.inf)


class OutOfTime(BaseException):
    """The deadline has passed."""


@contextmanager
def until(deadline: float) -> Iterator[None]:
    """Makes ``require_time`` raise within from a deadline on; an earlier one around it stays.

    Args:
        deadline: In seconds of ``time.monotonic``.

    Yields:
        Nothing.
    """
    token = _deadline.set(min(deadline, _deadline.get()))
    try:
        yield
    finally:
        _deadline.reset(token)


def require_time() -> None:
    """Goes on where there is time left; to be called about every tenth of a second.

    Raises:
        OutOfTime: there is none.
    """
    if is_time_up():
        raise OutOfTime


def is_time_up() -> bool:
    """Whether there is no time left."""
    return time.monotonic() > _deadline.get()


def time_left() -> float:
    """How many seconds there are left; infinity without a deadline."""
    return max(0.0, _deadline.get() - time.monotonic())
