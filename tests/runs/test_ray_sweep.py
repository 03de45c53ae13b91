"""Sweeps on a cluster of Ray: workers and drivers that are killed, points that fail, early stopping."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file

from withstand.cli.entry import main
from withstand.integrations.ray_cluster import Cluster
from withstand.runs.arbiter import Arbiter, Score
from withstand.runs.early_stopping import Watch
from withstand.runs.ray_sweep import Needs
from withstand.training.checkpoint import Row
from withstand.types import ClusterError, RecipeError

pytestmark = pytest.mark.xdist_group("ray")  # which share the cluster

TINY = [
    "--training.epochs=2",
    "--data.train_size=60",
    "--data.validation_size=30",
    "--training.selection=null",
    "--training.accelerator=cpu",
    "--objective=CrossEntropy",
    "--evaluation.num_examples=20",
    "--evaluation.meters=[]",
]
# Ends its own process once, in the second epoch of the first seed that comes so far.
NET = """
import os, signal
from pathlib import Path
from torch import nn

class Net(nn.Sequential):
    def forward(self, images):
        mark, checkpoint = Path("killed"), Path("out/seed=0/model.safetensors")
        if self.training and checkpoint.exists() and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)

def make():
    return Net(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands are given in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


@pytest.mark.usefixtures("local_ray")
def test_trial_whose_worker_is_killed_goes_on_from_its_checkpoint(
    here: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (here / "net.py").write_text(NET)
    sweep = ["sweep", "digits-adversarial", *TINY, "--model.name=net.py:make", "--model.options={}"]
    assert main([*sweep, "--over=seed=0,1", "--out=out", "--on=ray"]) == 0
    assert "2/2] seed=" in shown(capsys)
    assert (here / "killed").exists()
    assert "its worker was lost" in caplog.text
    assert (here / "out/report.html").exists()

    assert main([*sweep, "--over=seed=0", "--out=alone"]) == 0  # in one process, which nothing kills
    ours, alone = (load_file(here / out / "seed=0/last.safetensors") for out in ("out", "alone"))
    assert all(ours[name].equal(alone[name]) for name in alone)


@pytest.mark.usefixtures("local_ray")
def test_sweep_on_ray_reports_a_point_that_fails_and_does_the_others(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = [setting for setting in TINY if "validation_size" not in setting]
    over = ["--over=data.validation_size=100000,30", "--over=seed=0"]
    assert main(["sweep", "digits-adversarial", *tiny, *over, "--out=out", "--on=ray"]) == 2
    printed = shown(capsys)
    assert "validation_size=100000,seed=0: failed: " in printed
    assert "1 of 2 points failed" in printed
    assert (here / "out/validation_size=30,seed=0/metrics.json").exists()


@pytest.mark.usefixtures("local_ray")
def test_sweep_goes_on_where_a_killed_driver_left_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import ray

    command = ["sweep", "digits-adversarial", *TINY, "--over=seed=0,1,2,3,4,5", "--out=out"]
    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen(
        [sys.executable, "-m", "withstand", *command, f"--on=ray:{address}"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in waiting():
            if (here / "out/seed=0/metrics.json").exists():
                break
        assert not (here / "out/seed=5/metrics.json").exists()
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert main([*command, "--on=ray"]) == 0
    printed = shown(capsys)
    assert "seed=0: clean" in printed
    assert 1 <= printed.count("done before") < 6
    assert all((here / f"out/seed={seed}/metrics.json").exists() for seed in range(6))


def waiting(seconds: float = 200.0) -> Iterator[None]:
    """Moments until a time is up, which fails the test."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield
        time.sleep(0.01)
    pytest.fail("It did not come.")


@pytest.mark.usefixtures("local_ray")
def test_trial_that_asha_stops_says_so_and_is_trained_to_the_end_without_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", "digits-adversarial", *TINY, "--over=training.optimizer.lr=0.01,1e-9", "--out=out"]
    command += ["--training.optimizer=torch.optim.Adam"]
    asha = ["--on=ray", "--cpus=2", "--scheduler=asha", "--reduction_factor=2"]
    stopped = here / "out/lr=1e-09"
    for _ in range(2):  # the second time both are known
        assert main([*command, *asha]) == 0
        printed = shown(capsys)
        assert "lr=1e-09: stopped early by asha after epoch 1 (validation accuracy" in printed
        assert "1 of 2 points were stopped early" in printed
        assert "lr=0.01: clean" in printed
        assert not (stopped / "metrics.json").exists()
    assert "done before" in printed
    assert "stopped early by asha" in (stopped / "train.csv").read_text()
    assert "lr=1e-09" not in (here / "out/report.html").read_text()

    assert main(command) == 0  # in this process
    assert "lr=1e-09: clean" in shown(capsys)
    assert "stopped" not in (stopped / "train.csv").read_text()
    assert "stopped_early" not in json.loads((stopped / "environment.json").read_text())


@pytest.mark.parametrize(
    ("histories", "goes_on"),
    [
        ([[(1, 0.9)], [(1, 0.5)]], [True, False]),
        ([[(1, 0.5)], [(1, 0.9)], [(1, 0.7)], [(1, 0.65)]], [True, True, True, False]),
        ([[(1, 0.5), (2, 0.9)], [(1, 0.6), (2, 0.8)]], [True, False]),  # at the second epoch
        (
            [[(1, 0.9), (2, 0.9)], [(1, 0.5), (2, 0.95)]],
            [True, True],
        ),  # gone on with: of the last it is asked
    ],
)
def test_asha_lets_the_better_half_go_on(histories: Sequence[Sequence[Score]], goes_on: list[bool]) -> None:
    arbiter = Arbiter(1, 2, 4)
    assert [arbiter.goes_on(str(place), scores) for place, scores in enumerate(histories)] == goes_on


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cpus=2"], "--cpus is of sweeps on Ray. Add --on=ray."),
        (["--scheduler=asha"], "Add --on=ray"),
        (["--on=ray", "--scheduler=nonsense"], "take --scheduler=asha"),
        (["--on=ray", "--grace_epochs=2"], "Add that"),
        (["--on=ray", "--cpus=0"], "cpus"),
        (["--on=elsewhere"], "names no cluster"),
        (["--on=ray", "--scheduler=asha", "--grace_epochs=5"], "none has more than 2 epochs"),
        (["--on=ray", "--scheduler=asha", "--over=training.selection=null,PGD"], "Give all the same"),
        (["--on=ray", "--out=memory://here"], "of one process"),
        (["--on=ray", "--training.devices=2"], "one process"),
        (["--out=memory://here", "--training.devices=2"], "one process"),
    ],
)
@pytest.mark.usefixtures("local_ray")
def test_sweep_refuses_a_way_that_does_not_fit(
    options: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = [setting for setting in TINY if "selection" not in setting]
    assert main(["sweep", "digits-adversarial", *tiny, "--over=seed=0", *options]) == 2
    assert message in shown(capsys)
    assert not list(here.iterdir())


def test_trial_reports_the_epochs_that_were_validated_and_were_not_rolled_back() -> None:
    rows: list[Row] = [
        {"epoch": 1, "validation_accuracy": "", "collapsed": 0, "note": ""},
        {"epoch": 2, "validation_accuracy": 0.5, "collapsed": 0, "note": ""},
        {"epoch": 3, "validation_accuracy": 0.1, "collapsed": 1, "note": "back to the end of epoch 2"},
        {"epoch": 3, "validation_accuracy": "", "collapsed": 0, "note": ""},
        {"epoch": 4, "validation_accuracy": 0.6, "collapsed": 0, "note": ""},
    ]
    told: list[Score] = []
    watch = Watch(lambda scores: told.extend(scores) or True)  # type: ignore[func-returns-value]
    for number in range(1, len(rows) + 1):
        watch.on_epoch(rows[:number])
    assert told == [(2, 0.5), (4, 0.6)]
    with pytest.raises(RecipeError, match="no validation data"):
        watch.on_epoch([*rows, {"epoch": 5, "collapsed": 0, "note": ""}])


def test_sweep_on_ray_takes_no_more_than_there_is(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ClusterError, match="3 CPUs"):
        Needs(cpus=3).require_in(Cluster(1, 2, 0, is_local=True))
    Needs(cpus=3).require_in(Cluster(1, 2, 1, is_local=False))
    assert "has grown" in caplog.text
    assert "--gpus=1" in caplog.text


def test_sweep_in_one_process_imports_no_ray() -> None:
    code = "import sys, withstand.cli.sweep; assert 'ray' not in sys.modules"
    path = os.pathsep.join(filter(None, sys.path))
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})
