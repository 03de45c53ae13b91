"""Errors that are raised in one process and have to be said by another."""

from __future__ import annotations

import pickle
import traceback
from typing import NamedTuple, NoReturn

from withstand.types import WithstandError


class Failure(NamedTuple):
    """What one process sends another in the place of a result.

    Attributes:
        error: What was raised; where it cannot be sent, one of the nearest class that says the same.
        trace: Where it was raised, as Python prints it; empty where the text of the error says all.
    """

    error: Exception
    trace: str

    @staticmethod
    def of(error: Exception) -> Failure:
        """What to send of an error.

        Args:
            error: As it was caught.
        """
        is_said = isinstance(error, WithstandError)
        trace = "" if is_said else "".join(traceback.format_exception(error))
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # whatever a class of someone else's may do
            kind = WithstandError if is_said else RuntimeError
            error = kind(str(error) if is_said else f"{type(error).__name__}: {error}")
        return Failure(error, trace)

    def again(self, where: str) -> NoReturn:
        """Raises the error here.

        Args:
            where: The process that it comes from: ``process 1``.

        Raises:
            Exception: the error.
        """
        if self.trace:
            self.error.add_note(f"It was raised in {where}:\n{self.trace}")
        raise self.error
