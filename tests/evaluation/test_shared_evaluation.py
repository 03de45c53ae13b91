"""Evaluations shared by a group of processes, or by workers of Ray: the same files as of one process."""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import withstand as ws
from withstand.cli.entry import main
from withstand.constraints.parametrize import spectral_norm_
from withstand.core.failures import Failure
from withstand.core.processes import agreeing, done_by_first
from withstand.evaluation import Meter, Predictor, meters
from withstand.evaluation.meter import PartResult
from withstand.evaluation.ray_workers import RayWorkers
from withstand.evaluation.shipping import packed, unpacked
from withstand.integrations import ray_cluster
from withstand.integrations.ray_cluster import Cluster, connected
from withstand.types import Batch, ClusterError, DataError, ModelError

SCRIPT = Path(__file__).with_name("shared_by_group.py")
SHARED: Any = runpy.run_path(str(SCRIPT))
FILES = ("examples.csv", "measurements.csv")
MODEL = """
import torch
from torch import nn

class Doubled(nn.Module):
    def forward(self, images):
        return images * 2

def make():
    torch.manual_seed(0)
    return nn.Sequential(Doubled(), nn.Flatten(), nn.Linear(64, 10))
"""


def _run_group(folder: Path, *arguments: str) -> list[int]:
    """Runs the script in two processes of a group; their exit statuses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = []
    for rank in ("0", "1"):
        with (folder / f"printed-{rank}.txt").open("wb") as printed:
            environment = {**os.environ, **paths, **group, "RANK": rank}
            command = [sys.executable, str(SCRIPT), str(folder), *arguments]
            started.append(subprocess.Popen(command, env=environment, stdout=printed))
    try:
        return [process.wait(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()


def _assert_same_files(one: Path, other: Path) -> None:
    for name in FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def _stored(folder: Path) -> dict[str, set[str]]:
    """File -> names of all that is stored in it."""
    return {file.name: set(np.load(file).files) for file in (folder / "evaluation").glob("*.npz")}


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left of the evaluations of the script; the second ended in the last of them."""
    folder = tmp_path_factory.mktemp("group")
    statuses = _run_group(folder, *_evaluate(folder / "net.py"))
    assert statuses[1] == 9
    assert statuses[0] != 0
    return folder


def _told(group: Path, rank: int) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((group / f"told-{rank}.json").read_text(encoding="utf-8"))
    return told


@pytest.mark.parametrize("kind", ["certain", "bayes"])
def test_group_of_processes_gives_the_files_of_one(group: Path, tmp_path: Path, kind: str) -> None:
    model = SHARED["network"]()
    SHARED["measured"](model if kind == "certain" else ws.bayes.convert(model), out=tmp_path)
    _assert_same_files(group / kind, tmp_path)
    # Not by its name: that of a certificate counts rules that other tests have added here.
    stored = [{file: len(names) for file, names in _stored(at).items()} for at in (group / kind, tmp_path)]
    assert stored[0] == stored[1]


def test_group_gives_all_processes_the_results(group: Path) -> None:
    rows = [_told(group, rank)["rows"] for rank in range(2)]
    assert rows[0] == rows[1]
    assert len(rows[0].splitlines()) == 71


def test_group_raises_the_error_of_one_process_in_all_and_goes_on(group: Path) -> None:
    for rank in range(2):
        told = _told(group, rank)
        assert told["fails"] == ["KeyError", "'a fault of its own'"]
        assert told["other"][0] == "ProcessError"
        assert "another model" in told["other"][1]
    assert _told(group, 0)["alone"] == 70  # by itself, without workers, it waits for no other process


def test_group_of_which_a_process_ended_is_gone_on_from_by_one(group: Path, tmp_path: Path) -> None:
    model = SHARED["Faulty"]("ends")  # in no other process than the second
    SHARED["measured"](model, out=group / "ended")
    SHARED["measured"](model, out=tmp_path)
    _assert_same_files(group / "ended", tmp_path)


def test_command_evaluate_of_a_group_writes_what_one_process_does(group: Path, tmp_path: Path) -> None:
    assert main([*_evaluate(group / "net.py"), f"--out={tmp_path / 'alone'}"]) == 0
    _assert_same_files(group / "command", tmp_path / "alone")
    assert "test data" in (group / "printed-0.txt").read_text(encoding="utf-8")
    assert not (group / "printed-1.txt").read_text(encoding="utf-8")  # the first process alone prints


def _evaluate(file: Path) -> list[str]:
    """The command on a model of the user's own file."""
    file.write_text(MODEL, encoding="utf-8")
    return [
        "evaluate",
        f"{file}:make",
        "--data.name=digits",
        "--evaluation.num_examples=50",
        "--evaluation.batch_size=20",
        "--evaluation.meters=[{class_path: Attacks, init_args: {attacks: [{class_path: PGD, init_args: "
        "{num_steps: 2}}], epsilons: [0.1]}}, {class_path: Certificate, init_args: {norm: inf, "
        "epsilons: [0.01]}}]",
    ]


# -- Ray ------------------------------------------------------------------------------------------------


class Mortal(nn.Module):
    """Ends its process once, when it is asked for a batch there."""

    def __init__(self, network: nn.Module, mark: Path) -> None:
        super().__init__()
        self.network, self.mark, self.safe = network, mark, os.getpid()

    @override
    def forward(self, images: Tensor) -> Tensor:
        if len(images) == 20 and os.getpid() != self.safe and not self.mark.exists():
            self.mark.touch()
            os._exit(9)
        logits: Tensor = self.network(images)
        return logits


@dataclass(frozen=True)
class Brightness(Meter):
    """A meter of the user's own."""

    scale: float = 2.0

    @property
    @override
    def name(self) -> str:
        return "brightness"

    @override
    def score(self, predictor: Predictor, batch: Batch, prediction: Tensor, *, seed: int) -> PartResult:
        means = batch.images.flatten(1).mean(dim=1) * self.scale
        return PartResult({"brightness": means.numpy()})


@pytest.mark.xdist_group("ray")
def test_ray_workers_give_the_files_of_one_process_though_one_ends(
    local_ray: Cluster, tmp_path: Path
) -> None:
    what = [
        meters.Attacks([ws.attacks.PGD(num_steps=3)], epsilons=[0.05]),
        meters.NoiseCurve(),
        Brightness(),
    ]
    model, digits = Mortal(SHARED["network"](), tmp_path / "ended"), ws.data.load("digits")
    told: list[int] = []
    for name, workers in (("ray", RayWorkers(local_ray)), ("alone", None)):
        ws.evaluate(
            model,
            digits,
            what,
            num_examples=70,
            batch_size=20,
            out=tmp_path / name,
            workers=workers,
            on_batch=lambda done, total: told.append(done),
        )
    assert (tmp_path / "ended").exists()
    _assert_same_files(tmp_path / "ray", tmp_path / "alone")
    assert _stored(tmp_path / "ray") == _stored(tmp_path / "alone")
    assert told.count(70) >= 2


@pytest.mark.xdist_group("ray")
def test_command_evaluate_on_ray_sends_the_file_of_a_model(local_ray: Cluster, tmp_path: Path) -> None:
    command = _evaluate(tmp_path / "net.py")
    assert main([*command, f"--out={tmp_path / 'ray'}", "--on=ray", "--workers=1"]) == 0
    assert main([*command, f"--out={tmp_path / 'alone'}"]) == 0
    _assert_same_files(tmp_path / "ray", tmp_path / "alone")


def test_packed_models_are_the_same_with_parametrised_and_random_weights() -> None:
    images = torch.rand(3, 1, 8, 8)
    for change in (spectral_norm_, ws.bayes.convert):
        model = SHARED["network"]().eval()
        model = change(model) or model
        with torch.random.fork_rng():
            expected = model(images)
        assert torch.equal(unpacked(packed(model))(images), expected)


def test_packed_model_that_cannot_be_sent_is_an_error_that_says_what_to_do() -> None:
    model = SHARED["network"]()
    model.server = socket.socket()
    with model.server, pytest.raises(ModelError, match="Evaluate in one process"):
        packed(model)


@pytest.mark.parametrize("on", ["slurm", "ray:", "ray://", "rays", "ray:a b"])
def test_cluster_of_no_such_name_is_refused(on: str) -> None:
    with pytest.raises(ValueError, match="names no cluster"), connected(on):
        pass


def test_cluster_that_does_not_answer_is_an_error_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # whatever other tests have started
    assert main(["evaluate", "anything", f"--on=ray:127.0.0.1:{port}"]) == 2
    assert "cannot be reached" in capsys.readouterr().err


def test_ray_that_is_not_installed_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r"pip install 'withstand\[distributed\]'"):
        ray_cluster.require_ray()


def test_workers_option_needs_ray(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "anything", "--workers=2"]) == 2
    assert "--on=ray" in capsys.readouterr().err


# -- one process, and errors that travel ----------------------------------------------------------------


def test_failure_raises_the_same_error_with_where_it_was_raised() -> None:
    with pytest.raises(DataError, match="no images") as said:
        Failure.of(DataError("no images")).again("process 1")
    assert not hasattr(said.value, "__notes__")
    with pytest.raises(KeyError) as raised:
        Failure.of(KeyError("place")).again("process 1")
    assert "process 1" in raised.value.__notes__[0]


def test_failure_that_cannot_be_sent_keeps_its_text() -> None:
    class LocalError(Exception):
        pass

    failure = Failure.of(LocalError("lost"))
    assert type(failure.error) is RuntimeError
    assert str(failure.error) == "LocalError: lost"


def test_one_process_agrees_with_itself() -> None:
    with pytest.raises(KeyError), agreeing():
        raise KeyError
    assert done_by_first(lambda: 3) == 3
