"""An observer that interrupts a training, for tests of what goes on from it."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import override

from withstand.training import Observer
from withstand.training.checkpoint import Row


class StopAfter(Observer):
    """Interrupts a training once, as Ctrl-C would."""

    def __init__(self, step: int) -> None:
        self.step = step

    @override
    def on_step(self, done: int, total: int) -> None:
        if done == self.step:
            raise KeyboardInterrupt

    @override
    def on_epoch(self, rows: Sequence[Row]) -> None:
        return None
