"""Commands on a model that was trained elsewhere: one run folder, made by whichever command comes first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from withstand.cli.entry import main
from withstand.core.run_folder import RunFolder
from withstand.results import read_results
from withstand.runs.adoption import folder_name, usual_meters
from withstand.runs.loading import load_run
from withstand.runs.run_parts import open_run

NET = """\
from torch import nn
def make(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, num_classes))
"""
FEW = "--evaluation.num_examples=10"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A model of the user's own, its weights in a checkpoint, and its data, as options."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    torch.save({"epoch": 1, "state_dict": nn.DataParallel(net).state_dict()}, "best.ckpt")
    torch.save(nn.DataParallel(net.requires_grad_(False).apply(_negated)).state_dict(), "other.pt")
    return ["net.py:make", "--weights=best.ckpt", "--data.name=digits"]


def _negated(layer: nn.Module) -> None:
    for weight in layer.parameters(recurse=False):
        weight.neg_()


def measured(run: Path) -> list[str]:
    known = read_results(RunFolder(run))
    assert known is not None
    return [meter["class_path"].rpartition(".")[2] for meter in known[0].settings["meters"]]


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    return " ".join(capsys.readouterr().err.split())


def test_evaluate_measures_reports_and_goes_on_with_a_model(
    own: list[str], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run = Path("runs/net-make")
    assert main(["evaluate", *own, FEW]) == 0
    shown = capsys.readouterr().out
    assert "the suite fast at linf epsilon 0.1, and accuracy under noise" in shown
    assert f"report: {run / 'report.html'}" in shown
    assert "taken from its entry 'state_dict'; 'module.' taken off before each name" in caplog.text
    page = (run / "report.html").read_text()
    assert "<title>Evaluation of net.py:make on digits" in page
    assert "net.py:make with the weights of best.ckpt; it was not trained in this folder." in page
    assert "Missing:" not in page
    assert "last weights" not in page
    assert measured(run) == ["Suite", "NoiseCurve"]
    assert open_run(run)[1].recipe.model.normalize is False
    kernel = ["--evaluation.meters+=NoiseCurve", "--evaluation.meters.num_levels=2"]
    assert main(["evaluate", *own, FEW, *kernel]) == 0
    assert measured(run) == ["Suite", "NoiseCurve"]
    command = json.loads((run / "environment.json").read_text())["measured_by"][-1]
    assert command.startswith("withstand evaluate net.py:make --weights=best.ckpt --data.name=digits")
    text = failed(capsys, "evaluate", own[0], "--weights=other.pt", own[2], FEW)
    assert "holds the same model with other weights" in text
    assert "--weights is for a model" in failed(capsys, "evaluate", str(run), "--weights=other.pt")
    assert "withstand evaluate net.py:make" in failed(capsys, "report", "net.py:make")


def test_attack_certify_and_moments_share_the_folder_of_a_model(own: list[str]) -> None:
    out, few = Path("shared"), "--num_examples=6"
    assert main(["attack", *own, f"--out={out}", few, "--epsilon=0.02", "--num_steps=2"]) == 0
    own[1] = f"--weights={out}"  # a run folder stands for its own weights
    assert main(["certify", *own, f"--out={out}", "--norm=2", "--epsilons=[0.01]"]) == 0
    sampled = ["--methods=[diagonal]", "--noise_std=0.1", "--num_samples=4", "--num_examples=1"]
    assert main(["moments", *own, f"--out={out}", *sampled]) == 0
    assert measured(out) == ["Attacks", "Certificate", "MomentCheck"]


@pytest.mark.parametrize("command", ["evaluate", "attack", "moments"])
def test_commands_on_a_model_say_what_is_missing_and_leave_nothing(
    command: str, own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--data.name=mnist" in failed(capsys, command, own[0], own[1], "--out=none")
    assert "--weights=FILE" in failed(capsys, command, "mlp", own[2], "--out=none")
    assert "no function 'mak'" in failed(capsys, command, "net.py:mak", *own[1:], "--out=none")
    assert "withstand train RECIPE --out=nets" in failed(capsys, command, "nets", *own[1:])
    torch.save({"weight": torch.ones(2)}, "small.pt")
    assert "1.weight is missing" in failed(
        capsys, command, own[0], "--weights=small.pt", own[2], "--out=none"
    )
    assert not Path("none").exists()


@pytest.mark.parametrize(
    ("model", "folder"),
    [
        ("path/to/net.py:make", "net-make"),
        ("package.module:net", "package-net"),
        ("lenet", "lenet"),
        ("hub:OWNER/NAME-1.5", "hub-NAME-1.5"),
        ("path/to/net.v2.onnx", "net.v2"),
    ],
)
def test_folder_of_a_model_is_named_after_it(model: str, folder: str) -> None:
    assert folder_name(model) == folder


def test_usual_epsilon_is_that_of_the_data() -> None:
    epsilons = [usual_meters(data)[0]["init_args"]["epsilons"] for data in ("mnist", "cifar10", "mine")]
    assert epsilons == [[0.3], [8 / 255], [8 / 255]]


def test_weights_that_bring_a_normalisation_of_their_own_are_measured_with_it(own: list[str]) -> None:
    state = torch.load("best.ckpt", weights_only=True)["state_dict"]
    named = {name.replace("module.", "network."): value for name, value in state.items()}
    mean, std = torch.tensor([0.1]), torch.tensor([0.7])
    torch.save({"normalize.mean": mean, "normalize.std": std, **named}, "whole.pt")
    asked = ["certify", own[0], "--weights=whole.pt", own[2], "--model.normalize=true", "--out=run"]
    for _ in range(2):  # the second finds the folder of the first
        assert main([*asked, "--norm=2", "--epsilons=[0.1]", "--num_examples=4"]) == 0
    normalize = load_run("run").get_submodule("normalize")
    assert torch.allclose(normalize(torch.full((1, 1, 8, 8), 0.8)), torch.tensor(1.0))
