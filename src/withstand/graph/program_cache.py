"""Gives the program of a model, which is captured anew only where the model has changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn

from withstand.graph.program import Program

_shared: ContextVar[list[Program] | None] = ContextVar("_shared", default=None)


@contextmanager
def sharing_programs() -> Iterator[None]:
    """Meanwhile all caches have their programs in common, so that one form of a model is captured once.

    Yields:
        Nothing.
    """
    token = _shared.set([])
    try:
        yield
    finally:
        _shared.reset(token)


class ProgramCache:
    """Gives the program of a model; a new one only where the model has changed."""

    def __init__(self) -> None:
        self._program: Program | None = None

    def of(self, model: nn.Module, images: Tensor) -> Program:
        """The program of a model, or of what is inside its wrappers.

        Args:
            model: The model.
            images: Some of its inputs, (batch, …).

        Raises:
            ModelError: it cannot be captured.
        """
        shared = _shared.get()
        known = [program for program in (self._program, *(shared or ())) if program is not None]
        self._program = next((program for program in known if program.fits(model, images)), None)
        if self._program is None:
            self._program = Program(model, images)
            if shared is not None:
                shared.append(self._program)
        return self._program

    def __reduce__(self) -> tuple[type[ProgramCache], tuple[()]]:
        # A copy begins anew: the program holds the model, which is not to be copied with an objective.
        return ProgramCache, ()
