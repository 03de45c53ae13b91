"""What ends a training of two processes ends both, is said in a line, and costs nothing but its time."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from forked import Job
from withstand.core import run_folder
from withstand.core.dataset_info import DatasetInfo
from withstand.core.processes import rank
from withstand.data import Dataset, Split
from withstand.training import TrainingSettings, fit
from withstand.training.loop import Training
from withstand.types import Batch, DataError, ProcessError, WithstandError

STEPS, EPOCHS = 4, 6  # of an epoch; a checkpoint follows each epoch


def data() -> Dataset:
    parts = []
    for seed, num in enumerate((8 * STEPS, 8, 8)):
        pixels = torch.randint(0, 256, (num, 1, 4, 4), generator=torch.Generator().manual_seed(seed))
        parts.append(Split(pixels.to(torch.uint8), torch.arange(num) % 2))
    info = DatasetInfo("made", (1, 4, 4), ("a", "b"), (0.5,), (0.3,))
    return Dataset(info, train=parts[0], validation=parts[1], test=parts[2])


def train(out: Path) -> None:
    """Trains into a folder, if it comes to its end."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 2))
    settings = TrainingSettings(epochs=EPOCHS, batch_size=8, accelerator="cpu", devices=2)
    fit(model, data(), settings=settings, out=out, progress=False)


def cut(out: Path, happens: Callable[[], None], *, step: int, number: int = 0) -> None:
    """Trains, where something happens in one of the processes before one of its steps."""
    do = Training._step

    def step_or_fault(self: Training, batch: Batch, total: int) -> None:
        if self._position.total_steps == step and rank() == number:
            happens()
        do(self, batch, total)

    Training._step = step_or_fault  # type: ignore[method-assign]
    train(out)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk() -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    run_folder._synchronise = full


def fail() -> None:
    raise DataError("an error of one process alone")


def train_both(folder: Path) -> None:
    train(folder / "cut")
    train(folder / "whole")


def fail_and_train_again(folder: Path) -> None:
    with pytest.raises(ProcessError) as caught:  # in the first process alone
        cut(folder / "failed", fail, step=5, number=1)
    sys.stderr.write(f"{caught.value}\n")
    with pytest.raises(ProcessError) as caught:
        train(folder / "next")
    sys.stderr.write(f"{caught.value}\n")


JOBS: dict[str, Callable[[Path], object]] = {
    "other killed": lambda folder: cut(folder / "cut", kill, step=STEPS + 2, number=1),
    "disk full": lambda folder: cut(folder / "cut", fill_disk, step=2 * STEPS + 1),
    "first killed": lambda folder: cut(folder / "cut", kill, step=4 * STEPS + 2),
    "to the end": train_both,
    "other fails": fail_and_train_again,
}


class Ended(NamedTuple):
    """What a job came to: the status of its first process, what all wrote, and the epochs that are kept."""

    status: int
    said: str
    epochs: int


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Ended], Path]:
    """All jobs one after another, in a process that imports once for all; and their folder."""
    folder = tmp_path_factory.mktemp("kills")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, __file__, str(folder)], env=environment, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return {job: Ended(*what) for job, what in json.loads(done.stdout).items()}, folder


Jobs = tuple[dict[str, Ended], Path]


def test_killed_process_is_named_by_the_first_one(ended: Jobs) -> None:
    status, said, epochs = ended[0]["other killed"]
    assert (status, epochs) == (2, 1)
    assert re.search(r"error: Process 1 of this job \(pid \d+\) was ended by SIGKILL\. The same", said)


def test_full_disk_of_the_first_process_ends_both_and_is_said(ended: Jobs) -> None:
    status, said, epochs = ended[0]["disk full"]
    assert (status, epochs) == (2, 2)
    assert "No space left on device. Free the disk" in said


def test_killed_first_process_is_told_of_by_another(ended: Jobs) -> None:
    status, said, epochs = ended[0]["first killed"]
    assert (status, epochs) == (-signal.SIGKILL, 4)
    assert said.count("error: The first process of this job was killed. The same command goes on") == 1


def test_killed_training_of_two_processes_resumes_to_equal_weights(ended: Jobs) -> None:
    status, said, _ = ended[0]["to the end"]
    assert status == 0, said
    cut, whole = (load_file(ended[1] / name / "last.safetensors") for name in ("cut", "whole"))
    assert all(torch.equal(cut[key], whole[key]) for key in whole)


def test_error_of_another_process_alone_is_raised_in_the_first_and_ends_the_job(ended: Jobs) -> None:
    status, said, _ = ended[0]["other fails"]
    assert status == 0, said
    assert "Process 1 of this job ended: DataError: an error of one process alone" in said
    assert "Start the program anew" in said


def run(job: str, folder: Path) -> int:
    try:
        JOBS[job](folder)
    except WithstandError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    folder, results = Path(sys.argv[1]), {}
    for name in JOBS:
        job = Job(partial(run, name, folder))
        said = job.wait(60.0)  # ends when no process has its output open any more
        kept = torch.load(folder / "cut" / "checkpoint" / "last.pt", weights_only=True)
        results[name] = (job.first.returncode, said, kept["position"]["epoch"])
    sys.stdout.write(json.dumps(results))
