"""A network's program, traced once and kept as long as it fits."""

from __future__ import annotations

from torch import nn

from withstand.compiled import uncompiled
from withstand.domains.interpreter import Program

__all__ = ["KeptProgram"]


class KeptProgram:
    """Gives the program of a model; a new one only where the model has changed."""

    def __init__(self) -> None:
        self._program: Program | None = None

    def of(self, model: nn.Module) -> Program:
        """The program of a model, or of what was compiled: of a compiled graph no steps can be seen.

        Raises:
            ModelError: it cannot be traced.
        """
        original = uncompiled(model)
        if self._program is None or not self._program.fits(original):
            self._program = Program(original)
        return self._program

    def __reduce__(self) -> tuple[type[KeptProgram], tuple[()]]:
        # A copy begins anew: the program holds the model, which is not to be copied with an objective.
        return KeptProgram, ()
