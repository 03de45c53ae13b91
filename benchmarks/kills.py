"""Random kills of a training, each resumed by the same command: are the final weights those of no kill?

    python benchmarks/kills.py --kills=100 --out=results/benchmarks/kills.json

One process, and then two: ``withstand train digits-adversarial`` with a small net and a checkpoint as often
as there can be one. A random process is ended by SIGKILL or SIGTERM (of one process or two), or all of them
by Ctrl-C, at a random moment of the time that the whole takes; then the same command goes on, and may be
killed again, until it ends by itself. Both weight files are then compared bit by bit with those of a training
without a kill. Each start is a fork of a process that has imported all (``forked.py``), so that a kill falls
into the command's own work. It counts as a fault where weights differ, a process does not end within
``--patience`` seconds of the kill, a traceback is printed, or a start fails.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch

from forked import Job
from withstand.cli.entry import main as withstand
from withstand.core.environment import git_commit

_FILES = ("last.safetensors", "model.safetensors")
_ARGUMENTS = (
    "train",
    "digits-adversarial",
    "--data.train_size=320",
    "--data.validation_size=80",
    "--model.name=mlp",
    "--model.options.hidden=[16]",
    "--objective.attack.num_steps=2",
    "--training.batch_size=32",
    "--training.optimizer.lr=0.003",
    "--training.selection=null",
    "--training.accelerator=cpu",
    "--training.checkpoint_seconds=0",
)
_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@dataclass
class Counted:
    """What became of the kills of a training on so many processes."""

    processes: int
    kills: int = 0
    runs: int = 0
    equal: int = 0
    seconds_of_one_run: float = 0.0
    slowest_end: float = 0.0
    killed: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def job(out: Path, processes: int, epochs: int) -> Job:
    """The command, started."""
    more = [f"--training.epochs={epochs}", f"--training.devices={processes}", f"--out={out}"]
    return Job(partial(withstand, [*_ARGUMENTS, *more]))


def weights(out: Path) -> list[bytes]:
    """The weight files, which have no date in them."""
    return [(out / name).read_bytes() for name in _FILES]


def kill(running: Job, counted: Counted, rng: random.Random) -> None:
    """Sends a random signal to a random process of a job, or Ctrl-C to all."""
    number = rng.choice(_SIGNALS)
    to_all = number == signal.SIGINT
    targets = range(counted.processes) if to_all else [rng.randrange(counted.processes)]
    for target in targets:
        running.kill(target, number)
    what = f"{'all' if to_all else ('first', 'other')[targets[0]]} {number.name}"
    counted.killed[what] = counted.killed.get(what, 0) + 1
    counted.kills += 1


def killed_until_done(out: Path, counted: Counted, arguments: argparse.Namespace, rng: random.Random) -> None:
    """One training to its end, killed at random moments as long as kills are left."""
    while True:
        running = job(out, counted.processes, arguments.epochs)
        is_killed = counted.kills < arguments.kills
        if is_killed:
            until = time.monotonic() + rng.uniform(0.0, counted.seconds_of_one_run)
            while running.first.poll() is None and time.monotonic() < until:
                time.sleep(0.002)
            is_killed = running.first.poll() is None
            if is_killed:
                kill(running, counted, rng)
        since = time.monotonic()
        try:
            said = running.wait(arguments.patience if is_killed else 600.0)
        except TimeoutError as error:
            counted.faults.append(str(error)[-500:])
            continue
        if is_killed:
            counted.slowest_end = max(counted.slowest_end, time.monotonic() - since)
        if "Traceback" in said:
            counted.faults.append(said[-500:])
        if running.first.returncode == 0:
            return
        if not is_killed:
            counted.faults.append(said[-500:])
            return


def count(processes: int, arguments: argparse.Namespace, folder: Path) -> Counted:
    """Kills and resumes until there were as many kills as are asked for."""
    counted, rng = Counted(processes), random.Random(arguments.seed + processes)
    for number in range(2):  # the first is slower, and shows that two without a kill are equal
        whole = folder / f"{processes}-whole-{number}"
        started = time.monotonic()
        said = job(whole, processes, arguments.epochs).wait(600.0)
        counted.seconds_of_one_run = time.monotonic() - started
        if not (whole / _FILES[0]).exists():
            raise SystemExit(said)
    expected = weights(whole)
    if weights(folder / f"{processes}-whole-0") != expected:
        counted.faults.append("two trainings without a kill differ")
    while counted.kills < arguments.kills:
        out = folder / f"{processes}-{counted.runs}"
        killed_until_done(out, counted, arguments, rng)
        counted.runs += 1
        is_equal = weights(out) == expected
        counted.equal += is_equal
        if not is_equal:
            counted.faults.append(f"run {counted.runs} has other weights")
        sys.stderr.write(f"{processes}: {counted.kills} kills, {counted.runs} runs, {counted.equal} equal\n")
    return counted


def main() -> None:
    """Runs all and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="of each number of processes")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=60.0, help="seconds that processes have to end")
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        counts = [count(processes, arguments, Path(folder)) for processes in (1, 2)]
    result = {
        "command": " ".join(["python", "benchmarks/kills.py", *sys.argv[1:]]),
        "machine": {"device": "cpu", "threads": torch.get_num_threads(), "torch": torch.__version__},
        "commit": git_commit(),
        "seed": arguments.seed,
        "epochs": arguments.epochs,
        "training": " ".join(["withstand", *_ARGUMENTS]),
        "kills": [asdict(counted) for counted in counts],
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
