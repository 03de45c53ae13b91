"""Checkpoints: all that resuming needs, in one file that is replaced in one step."""

from __future__ import annotations

import io
import logging
import math
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from withstand.core.devices import accelerator, random_state, set_random_state
from withstand.core.run_folder import EVALUATED_FILES, RunFolder, replaced
from withstand.core.writing import percent
from withstand.models.weight_files import read_torch
from withstand.types import CheckpointError

_logger = logging.getLogger(__name__)

Row = dict[str, float | int | str]
ACCURACY, ROBUST_ACCURACY = "validation_accuracy", "validation_robust_accuracy"
"""Columns of the log."""


@dataclass
class Position:
    """How far training has come; everything here is plain and goes into the checkpoint.

    Attributes:
        epoch: Whole epochs done.
        good_epoch: Whole epochs done at the end of the last that did not collapse.
        step: Steps done in the epoch under way.
        total_steps: Steps done since the beginning, also those rolled back.
        seconds: Time spent since the beginning, over all processes.
        best_score: Best validation score so far, in [0, 1]; -1 before the first.
        slowed_at: Epochs at which training was slowed down after a collapse, in order.
        rows: The training log.
    """

    epoch: int = 0
    good_epoch: int = 0
    step: int = 0
    total_steps: int = 0
    seconds: float = 0.0
    best_score: float = -1.0
    slowed_at: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class TrainingResult:
    """What training came to.

    Attributes:
        rows: The training log, one dictionary an epoch.
        best_score: Best validation score, in [0, 1].
        seconds: Time spent, over all processes that worked on the run.
        steps: Steps done, also those rolled back.
        has_collapsed: The last epoch is a collapsed one.
        best_weights: State dict of the epoch that did best on validation data, on the CPU; of the last one
            where there are no validation data.
        folder: The run folder; None where none was kept.
    """

    rows: Sequence[Row]
    best_score: float
    seconds: float
    steps: int
    has_collapsed: bool
    best_weights: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False, compare=False)
    folder: Path | None = None

    @property
    def best_epoch(self) -> int | None:
        """The epoch of the best validation score, from 1; None where no epoch was scored."""
        best = _best_row(self.rows)
        return None if best is None else int(best["epoch"])

    def __repr__(self) -> str:
        """A line for people."""
        epochs = f"{len(self.rows)} {'epoch' if len(self.rows) == 1 else 'epochs'}"
        parts = [f"{epochs}, {self.steps} steps, {self.seconds:.1f} s"]
        if self.best_epoch is not None:
            parts.append(f"best validation score {percent(self.best_score)} at epoch {self.best_epoch}")
        if self.rows:
            parts.append(f"last loss {float(self.rows[-1].get('loss', math.nan)):.4g}")
        parts += ["collapsed"] if self.has_collapsed else []
        parts.append("no folder was kept" if self.folder is None else f"folder {self.folder}")
        return f"<TrainingResult: {'; '.join(parts)}>"


def early_best(rows: Sequence[Row]) -> str:
    """What to know of the best epoch where it was trained at a smaller epsilon than the last; else empty.

    So it is where epsilon grows and epochs are scored by clean accuracy, which falls meanwhile.

    Args:
        rows: The training log, its values as numbers or as texts.
    """
    best = _best_row(rows)
    if best is None or best.get("epsilon") in (None, "") or ROBUST_ACCURACY in best:
        return ""
    then, now = float(best["epsilon"]), float(rows[-1].get("epsilon") or 0)
    if then >= now or math.isclose(then, now, rel_tol=0.01):
        return ""
    return (
        f"The best epoch goes by clean accuracy: it is epoch {best['epoch']}, trained at epsilon {then:.4g}, "
        f"and the last was trained at {now:.4g}."
    )


def _best_row(rows: Sequence[Row]) -> Row | None:
    scored = [(_score(row), row) for row in rows if not int(row.get("collapsed") or 0)]
    known = [(score, row) for score, row in scored if score is not None]
    return max(known, key=lambda pair: (pair[0], int(pair[1]["epoch"])))[1] if known else None


def _score(row: Row) -> float | None:
    """The validation score that an epoch goes by: under attack where that was measured."""
    score = row.get(ROBUST_ACCURACY, row.get(ACCURACY, ""))
    return None if score == "" else float(score)


def rng_state() -> dict[str, torch.Tensor]:
    """The state of torch's generators, on the CPU and on the current device of the accelerator."""
    devices = (torch.device("cpu"), accelerator())
    return {device.type: random_state(device) for device in devices if device is not None}


def set_rng_state(states: Mapping[str, torch.Tensor]) -> None:
    """Restores what ``rng_state`` gave; that of an accelerator is passed over where there is no such."""
    for device in (torch.device("cpu"), accelerator()):
        if device is not None and device.type in states:
            set_random_state(device, states[device.type])


def newest_checkpoint(run: RunFolder) -> Path | None:
    """The checkpoint that a training goes on from; None where there is none."""
    files = (run.checkpoints / name for name in ("last.pt", "good.pt"))
    return next((file for file in files if file.exists()), None)


def begin(run: RunFolder, position: Position, num_epochs: int, *, is_done: bool) -> None:
    """Readies a folder for weights that will be others; says where more was trained than is asked for.

    Args:
        run: The run folder, held.
        position: How far its training has come.
        num_epochs: How far it is to go.
        is_done: Whether no step is left.
    """
    if not is_done:
        _forget_figures(run)
        run.last_weights.unlink(missing_ok=True)  # their presence says that training is done
    elif position.epoch > num_epochs:
        _logger.warning(
            "Nothing was trained: %s epochs were asked for, but the network in %s has %s already, and its "
            "weights are those at the end of these. To train fewer, choose another --out, or out= in Python.",
            *(num_epochs, run.path, position.epoch),
        )


def _forget_figures(run: RunFolder) -> None:
    """Removes what was measured of the former weights, but for what is stored with whose it is."""
    files = [run.path / name for name in EVALUATED_FILES if name != run.evaluation.name]
    if any(file.exists() for file in files):
        _logger.warning(
            "%s is trained further: what was measured there is of the former weights, and leaves the folder. "
            "To measure it again: withstand evaluate %s, or ws.evaluate and its out= in Python.",
            *(run.path, run.path),
        )
    for file in files:
        file.unlink(missing_ok=True)


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Replaces a checkpoint; a process killed meanwhile leaves the old one.

    Raises:
        RunFolderError: the file cannot be written.
    """
    buffer = io.BytesIO()  # torch's own writer gives no OSError on a full disk
    torch.save(dict(content), buffer)
    with replaced(path) as temporary:
        path.parent.mkdir(exist_ok=True)
        temporary.write_bytes(buffer.getbuffer())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, tensors on the CPU.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        content = read_torch(path)
        if not {"run", "position", "model", "objective", "optimizer", "rng", "meter"} <= set(content):
            raise ValueError("it lacks some of its parts")
    except Exception as error:  # whatever damaged bytes lead to
        remedy = (
            "Delete it to go on from the end of the last good epoch, or choose another --out."
            if path.name == "last.pt"
            else f"Delete {path.parent.parent} to start anew, or choose another --out."
        )
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        if isinstance(error, pickle.UnpicklingError):  # torch's own text advises to read it unsafely
            reason = "it is no checkpoint, or holds what could run code"
        raise CheckpointError(f"The checkpoint {path} is damaged ({reason}). {remedy}") from error
    return dict(content)


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Says of what does not take the content of a checkpoint that it does not fit.

    Raises:
        CheckpointError: something does not.
    """
    try:
        yield
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"The checkpoint {path} does not fit the model, objective or optimiser ({reason}). Make them as "
            "they were to go on, or choose another --out, or out= in Python."
        ) from error


def require_same_run(path: Path, saved: Mapping[str, str], current: Mapping[str, str]) -> None:
    """Accepts a checkpoint that was written by the same run.

    Args:
        path: Where the checkpoint is, for the message.
        saved: What the checkpoint says of its run.
        current: The same of the run that wants to resume.

    Raises:
        CheckpointError: they differ; the text says in what.
    """
    differing = [
        key for key in {**current, **saved} if saved.get(key) != current.get(key) and key != "parameters"
    ]
    if differing:
        changes = "; ".join(f"{key}: {saved.get(key)} then, {current.get(key)} now" for key in differing)
        raise CheckpointError(
            f"The checkpoint {path} belongs to another run ({changes}). "
            "Resume with the same settings, or choose another --out, or out= in Python."
        )
