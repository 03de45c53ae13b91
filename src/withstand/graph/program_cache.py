"""Gives the program of a model, which is captured anew only where the model has changed."""

from __future__ import annotations

from torch import Tensor, nn

from withstand.core.modes import uncompiled
from withstand.graph.program import Program


class ProgramCache:
    """Gives the program of a model; a new one only where the model has changed."""

    def __init__(self) -> None:
        self._program: Program | None = None

    def of(self, model: nn.Module, images: Tensor) -> Program:
        """The program of a model, or of what was compiled: of a compiled graph no steps can be seen.

        Args:
            model: The model.
            images: Some of its inputs, (batch, …).

        Raises:
            ModelError: it cannot be captured.
        """
        original = uncompiled(model)
        if self._program is None or not self._program.fits(original, images):
            self._program = Program(original, images)
        return self._program

    def __reduce__(self) -> tuple[type[ProgramCache], tuple[()]]:
        # A copy begins anew: the program holds the model, which is not to be copied with an objective.
        return ProgramCache, ()
