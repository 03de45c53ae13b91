"""Who follows the progress of training: the training log, TensorBoard, a person at a terminal."""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from typing_extensions import override

from withstand.core.run_folder import replaced
from withstand.training.checkpoint import Row
from withstand.types import RecipeError


class Observer(ABC):
    """The interface of whoever follows a training; entered before it and left after it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Training has ended, well or not; by default nothing comes of it."""
        return

    def on_step(self, done: int, total: int) -> None:
        """Another step is done; counts over the whole training. By default nothing comes of it."""
        return

    @abstractmethod
    def on_epoch(self, rows: Sequence[Row]) -> None:
        """An epoch has ended; all rows of the log so far, the last one new."""


class CsvLog(Observer):
    """Writes ``train.csv`` anew at each epoch: columns may come late, and a resumed run agrees.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @override
    def on_epoch(self, rows: Sequence[Row]) -> None:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with replaced(self._path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)


class TensorBoardLog(Observer):
    """Writes the numbers of each epoch for TensorBoard; needs the extra ``withstand[log]``.

    Args:
        folder: Where the event files go.

    Raises:
        RecipeError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise RecipeError(
                "TensorBoard is not installed: `pip install withstand[log]`, or leave out "
                "training.tensorboard."
            ) from error
        self._writer = SummaryWriter(str(folder))

    @override
    def close(self) -> None:
        self._writer.close()

    @override
    def on_epoch(self, rows: Sequence[Row]) -> None:
        for name, value in rows[-1].items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, len(rows))


class ProgressBar(Observer):
    """A bar with the time left, and a line an epoch; where no bar can be drawn the lines alone.

    A bar can be drawn on a terminal, and in a notebook where ipywidgets is installed.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not (console.is_terminal or (console.is_jupyter and find_spec("ipywidgets"))),
        )
        self._task = self._progress.add_task("training")

    @override
    def __enter__(self) -> Self:
        self._progress.start()
        return self

    @override
    def close(self) -> None:
        self._progress.stop()

    @override
    def on_step(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)

    @override
    def on_epoch(self, rows: Sequence[Row]) -> None:
        self._console.print(_line(rows[-1]), highlight=False, markup=False, soft_wrap=True)


def _line(row: Row) -> str:
    """One epoch for people: ``epoch 3  12.1 s  loss 0.412  validation_accuracy 0.961``."""
    hidden = {"epoch", "progress", "seconds", "note", "collapsed"}
    numbers = [f"{name} {value:.4g}" for name, value in row.items() if name not in hidden and value != ""]
    note = f"  [{row['note']}]" if row.get("note") else ""
    return f"epoch {row['epoch']:>3}  {row['seconds']:.1f} s  " + "  ".join(numbers) + note
