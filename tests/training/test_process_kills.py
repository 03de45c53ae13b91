"""What ends a training of two processes ends both, is said in a line, and costs nothing but its time."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from withstand.core import run_folder
from withstand.core.dataset_info import DatasetInfo
from withstand.core.processes import is_first, rank
from withstand.data import Dataset, Split
from withstand.training import TrainingSettings, fit
from withstand.training.loop import Training
from withstand.types import DataError, ProcessError, WithstandError

STEPS, EPOCHS = 4, 6  # of an epoch; a checkpoint follows each epoch


def data() -> Dataset:
    parts = []
    for seed, num in enumerate((8 * STEPS, 8, 8)):
        pixels = torch.randint(0, 256, (num, 1, 4, 4), generator=torch.Generator().manual_seed(seed))
        parts.append(Split(pixels.to(torch.uint8), torch.arange(num) % 2))
    info = DatasetInfo("made", (1, 4, 4), ("a", "b"), (0.5,), (0.3,))
    return Dataset(info, train=parts[0], validation=parts[1], test=parts[2])


def trained(out: Path) -> dict[str, Tensor]:
    """The weights that a training into a folder ends with, if it does."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 2))
    settings = TrainingSettings(epochs=EPOCHS, batch_size=8, accelerator="cpu", devices=2)
    fit(model, data(), settings=settings, out=out, progress=False)
    return model.state_dict()


def cut(out: Path, happens: Callable[[], None], *, step: int, number: int = 0) -> None:
    """Trains, where something happens in one of the processes before one of its steps."""
    do = Training._step

    def step_or_fault(self: Training, *arguments: Any) -> None:
        if self._position.total_steps == step and rank() == number:
            happens()
        do(self, *arguments)

    Training._step = step_or_fault  # type: ignore[method-assign]
    trained(out)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk() -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    run_folder._synchronise = full


def fail() -> None:
    raise DataError("an error of one process alone")


def go_on_to_the_end(folder: Path) -> None:
    """Resumes what was killed, beside a training that was not; then the job itself fails."""
    resumed, whole = trained(folder / "cut"), trained(folder / "whole")
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    if is_first():
        message = "Process 1 of this job ended: DataError: an error of one process alone"
        with pytest.raises(ProcessError, match=message):
            cut(folder / "failed", fail, step=5, number=1)
        with pytest.raises(ProcessError, match="Start the program anew"):
            trained(folder / "next")
    else:
        cut(folder / "failed", fail, step=5, number=1)


JOBS: dict[str, Callable[[Path], object]] = {
    "other killed": lambda folder: cut(folder / "cut", kill, step=STEPS + 2, number=1),
    "disk full": lambda folder: cut(folder / "cut", fill_disk, step=2 * STEPS + 1),
    "first killed": lambda folder: cut(folder / "cut", kill, step=4 * STEPS + 2),
    "to the end": go_on_to_the_end,
}


def ended(job: str, folder: Path) -> tuple[int, str]:
    """Runs a job, whose processes all have ended then: status of the first, and what all wrote to stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, __file__, job, str(folder)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # is at its end when none has it open any more
        timeout=120,
    )
    return done.returncode, done.stdout


def epochs_kept(folder: Path) -> int:
    content = torch.load(folder / "cut" / "checkpoint" / "last.pt", weights_only=True)
    return int(content["position"]["epoch"])


def test_two_processes_killed_and_out_of_disk_resume_to_equal_weights(tmp_path: Path) -> None:
    status, said = ended("other killed", tmp_path)
    assert status == 2
    assert re.search(r"Process 1 of this job \(pid \d+\) was ended by SIGKILL\. The same command goes on", said)
    assert epochs_kept(tmp_path) == 1
    status, said = ended("disk full", tmp_path)
    assert status == 2
    assert "No space left on device. Free the disk" in said
    assert epochs_kept(tmp_path) == 2
    status, said = ended("first killed", tmp_path)
    assert status == -signal.SIGKILL
    assert said.count("error: The first process of this job was killed. The same command goes on") == 1
    assert epochs_kept(tmp_path) == 4
    status, said = ended("to the end", tmp_path)
    assert status == 0, said


if __name__ == "__main__":
    try:
        JOBS[sys.argv[1]](Path(sys.argv[2]))
    except WithstandError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
