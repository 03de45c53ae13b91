"""Gives the program of a model, which is captured anew only where the model has changed."""

from __future__ import annotations

from torch import Tensor, nn

from withstand.graph.program import Program


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
        if self._program is None or not self._program.fits(model, images):
            self._program = Program(model, images)
        return self._program

    def __reduce__(self) -> tuple[type[ProgramCache], tuple[()]]:
        # A copy begins anew: the program holds the model, which is not to be copied with an objective.
        return ProgramCache, ()
