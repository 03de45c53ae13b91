"""``withstand certify`` as a user meets it: on runs, on models of their own, and with bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from withstand.certificates import Certification, Certifier
from withstand.cli import main
from withstand.run_folder import RunFolder
from withstand.runs import open_run

SMALL = [
    "--objective=CrossEntropy",
    "--model.name=mlp",
    "--training.epochs=2",
    "--training.selection=null",
    "--training.rollback=null",
    "--training.accelerator=cpu",
    "--data.validation_size=100",
    "--evaluation.num_examples=40",
    "--evaluation.epsilons=[0.1]",
    "--evaluation.suite=null",
    "--evaluation.corruptions=null",
    "--evaluation.smoothing=null",
    "--evaluation.attacks=[{class_path: PGD, init_args: {norm: 2, num_steps: 3}}]",
]
NET = """\
from torch import nn
def make(num_classes, width=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_classes))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is trained and evaluated, to be copied."""
    out = tmp_path_factory.mktemp("certify") / "run"
    assert main(["train", "digits-adversarial", *SMALL, f"--out={out}"]) == 0
    assert main(["evaluate", str(out)]) == 0
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A model of the user's own."""
    (tmp_path / "net.py").write_text(NET)
    return f"{tmp_path / 'net.py'}:make"


def metrics_of(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return content


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The error text of a command that must fail, in one line."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    return " ".join(capsys.readouterr().err.split())


def test_a_run_gains_what_is_certified_beside_what_was_attacked(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, rows = metrics_of(run), pd.read_csv(run / "examples.csv")
    asked = ["--norm=2", "--epsilons=[8/255,0.1]", "--radius=true", "--batch_size=16"]
    assert main(["certify", str(run), *asked]) == 0
    shown = capsys.readouterr().out
    assert "certified-l2" in shown
    assert "certified radius mean" in shown
    metrics = metrics_of(run)
    assert metrics["clean"] == before["clean"]
    assert metrics["attacks"][0] == before["attacks"][0]
    assert [each["name"] for each in metrics["attacks"]] == ["pgd-3-l2", "pgd-20-margin-l2"]
    (certificate,) = metrics["certificates"]
    assert [point["epsilon"] for point in certificate["curve"]] == [8 / 255, 0.1]
    assert 0 < certificate["curve"][0]["correct"] <= metrics["attacks"][1]["curve"][0]["correct"]
    merged = pd.read_csv(run / "examples.csv")
    pd.testing.assert_frame_equal(merged[list(rows)], rows)
    assert (merged["certified-l2@0.0313725"] == (merged["radius-l2"] >= 8 / 255)).all()
    environment = json.loads((run / "environment.json").read_text())
    assert environment["certify_command"].endswith("--radius=true --batch_size=16")
    assert environment["cost"]["certify_seconds"] > 0
    assert main(["certify", str(run), "--norm=inf", "--epsilons", "0.01", "--method=box"]) == 0
    names = [each["name"] for each in metrics_of(run)["certificates"]]
    assert names == ["certified-l2", "certified-box-linf"]
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "certified (best)" in page
    assert "certified (box)" in page
    assert "withstand certify" in page


def test_an_evaluation_anew_forgets_what_was_certified_apart(run: Path) -> None:
    assert main(["certify", str(run), "--norm=2", "--epsilons=[0.1]"]) == 0
    assert main(["evaluate", str(run)]) == 0
    assert metrics_of(run)["certificates"] == []
    assert not any("certified" in str(name) for name in pd.read_csv(run / "examples.csv"))
    assert json.loads((run / "environment.json").read_text())["certify_command"] is None


def test_a_recipe_certifies_by_itself_and_says_what_to_certify(run: Path) -> None:
    wanted = "--evaluation.certificates=[{norm: inf, epsilons: [0.005, 0.01]}, {norm: 2}]"
    assert main(["evaluate", str(run), wanted]) == 0
    curves = {each["name"]: each["curve"] for each in metrics_of(run)["certificates"]}
    assert [point["epsilon"] for point in curves["certified-linf"]] == [0.005, 0.01]
    assert [point["epsilon"] for point in curves["certified-l2"]] == [0.1]
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(
        recipe.replace("certificates: []", "certificates: [{norm: inf, epsilons: [0.02]}, {norm: 2}]")
    )
    assert main(["certify", str(run), "--radius=true", "--norm=2"]) == 0
    metrics = metrics_of(run)
    assert "radius" in {each["name"]: each for each in metrics["certificates"]}["certified-l2"]
    assert main(["certify", str(run)]) == 0
    curves = {each["name"]: each["curve"] for each in metrics_of(run)["certificates"]}
    assert [point["epsilon"] for point in curves["certified-linf"]] == [0.005, 0.01, 0.02]


def test_a_run_that_was_never_evaluated_is_scored_clean_too(run: Path) -> None:
    for name in ("examples.csv", "metrics.json", "gallery.npz"):
        (run / name).unlink()
    assert main(["certify", str(run), "--norm=inf", "--epsilons=[0.01]", "--num_examples=30"]) == 0
    metrics = metrics_of(run)
    assert metrics["clean"]["total"] == 30
    assert [each["name"] for each in metrics["attacks"]] == ["pgd-20-margin-linf"]
    assert metrics["certificates"][0]["curve"][0]["total"] == 30


def test_a_false_certificate_ends_in_an_error_and_keeps_the_rows(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Boastful(Certifier):
        def certify(
            self, images: Tensor, labels: Tensor, *, norm: float, epsilon: float | Tensor
        ) -> Certification:
            margin = torch.ones(len(images), dtype=torch.float64)
            return Certification(margin, margin > 0)

    before = metrics_of(run)
    monkeypatch.setattr("withstand.evaluation.proofs.Certifier", Boastful)
    text = failed(capsys, "certify", str(run), "--norm=2", "--epsilons=[2]")
    assert "certified-l2 at epsilon 2:" in text
    assert "examples.csv" in text
    assert metrics_of(run) == before
    assert "certified-l2@2" in pd.read_csv(run / "examples.csv")
    assert "certified-l2" in failed(
        capsys, "evaluate", str(run), "--evaluation.certificates=[{norm: 2, epsilons: [2]}]"
    )


def test_a_model_of_the_users_own_becomes_a_run_folder(
    own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["certify", own, "--data.name=digits", f"--out={out}", "--norm=2", "--num_examples=20"]
    assert main([*command, "--epsilons=[0.001]", "--model.options={width: 5}"]) == 0
    assert len(pd.read_csv(out / "examples.csv")) == 20
    assert metrics_of(out)["certificates"][0]["name"] == "certified-l2"
    state = load_file(out / "last.safetensors")
    assert state["1.weight"].shape == (5, 64)  # as it is: without a normalisation before it
    assert open_run(out)[1].recipe.model.options == {"width": 5}
    assert main(["report", str(out)]) == 0
    assert "Certificates of" in (out / "report.html").read_text()
    assert main(["certify", str(out), "--norm=inf", "--epsilons=[0.001]"]) == 0
    assert main([*command, "--epsilons=[0.002]", "--model.options={width: 5}"]) == 0
    assert len(metrics_of(out)["certificates"]) == 2
    assert "Choose another folder" in failed(
        capsys, *command, "--epsilons=[0.1]", "--model.options={width: 6}"
    )
    weights = f"--weights={out / 'last.safetensors'}"
    other = ["certify", own, "--data.name=digits", f"--out={tmp_path / 'other'}", "--norm=2", weights]
    assert main([*other, "--epsilons=[0.001]", "--model.options={width: 5}", "--num_examples=20"]) == 0
    first, second = (pd.read_csv(folder / "examples.csv") for folder in (out, tmp_path / "other"))
    assert first["prediction"].equals(second["prediction"])


def test_bad_input_says_what_to_do(
    run: Path, own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on_run = ["certify", str(run)]
    assert "--norm=2 --epsilons=[0.5,1.58]" in failed(capsys, *on_run)
    assert "--epsilons" in failed(capsys, *on_run, "--norm=2")
    assert "norm 2 and inf" in failed(capsys, *on_run, "--norm=1", "--epsilons=[0.1]")
    assert "at least 0" in failed(capsys, *on_run, "--norm=2", "--epsilons=[-0.1]")
    assert "did you mean '--epsilons'" in failed(capsys, *on_run, "--norm=2", "--epsilon=[0.1]")
    assert "--evaluation.num_examples=50" in failed(
        capsys, *on_run, "--norm=2", "--epsilons=[0.1]", "--num_examples=50"
    )
    assert "at least 1" in failed(capsys, *on_run, "--norm=2", "--epsilons=[0.1]", "--batch_size=0")
    assert "for a model" in failed(capsys, *on_run, "--weights=x.pt")
    assert "data.name: digits then" in failed(
        capsys, *on_run, "--data.name=mnist", "--norm=2", "--epsilons=[0.1]"
    )
    assert "did you mean 'lenet'" in failed(capsys, "certify", "lanet", "--norm=2", "--epsilons=[0.1]")
    asked = ["--data.name=digits", "--norm=2", "--epsilons=[0.1]"]
    assert "--weights=FILE" in failed(capsys, "certify", "mlp", *asked)
    assert "--data.name=mnist" in failed(capsys, "certify", own, "--norm=2", "--epsilons=[0.1]")
    assert "first argument" in failed(capsys, "certify")
    out = tmp_path / "none"
    assert "say what to certify" in failed(capsys, "certify", own, "--data.name=digits", f"--out={out}")
    assert not out.exists()
    assert "withstand train" in failed(capsys, "certify", str(tmp_path), "--norm=2", "--epsilons=[0.1]")
    lines = (run / "examples.csv").read_text().splitlines()
    (run / "examples.csv").write_text("\n".join(lines[:-3]))
    cut = failed(capsys, *on_run, "--norm=2", "--epsilons=[0.1]")
    assert "withstand evaluate" in cut


def test_interrupted(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Certifier):
        def radius(self, images: Tensor, labels: Tensor, *, norm: float, tolerance: float = 1e-3) -> Tensor:
            raise KeyboardInterrupt

    before = (run / "examples.csv").read_text(), (run / "metrics.json").read_text()
    monkeypatch.setattr("withstand.evaluation.proofs.Certifier", Slow)
    assert main(["certify", str(run), "--norm=2", "--epsilons=[0.1]", "--radius=true"]) == 130
    assert "What was found stays" in capsys.readouterr().err
    assert ((run / "examples.csv").read_text(), (run / "metrics.json").read_text()) == before


@pytest.mark.parametrize(
    "arguments",
    [["cnn-4c3f", "--data.name=mnist"], ["digits-adversarial"], ["RUN"], ["OWN", "--data.name=digits"]],
)
def test_check_says_that_bounds_pass(
    arguments: list[str], run: Path, own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = {"RUN": str(run), "OWN": own}.get(arguments[0], arguments[0])
    capsys.readouterr()
    assert main(["check", name, *arguments[1:]]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Boxes, balls and both at once can pass" in shown
    assert "10 classes" in shown


def test_check_lists_every_operation_without_a_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(64, 10)\n"
        "    def forward(self, images):\n"
        "        return torch.cumsum(self.layer(images.flatten(1)).sin(), 1)\n"
        "def make():\n"
        "    return Net()\n"
    )
    text = failed(capsys, "check", f"{tmp_path / 'net.py'}:make", "--data.name=digits")
    assert "1. " in text
    assert "2. " in text
    assert "sin" in text
    assert "torch.cumsum" in text
    assert text.count("withstand.domains.register") == 2


def test_check_of_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'digits-adversarial'" in failed(capsys, "check", "digits-adversrial")
    assert "withstand train" in failed(capsys, "check", str(tmp_path))
    assert "--data.name=mnist" in failed(capsys, "check", "lenet")
    assert "did you mean '--data.name'" in failed(capsys, "check", "lenet", "--data.nam=mnist")


def test_run_folder_of_a_model_needs_nothing_else(own: str, tmp_path: Path) -> None:
    out = RunFolder(tmp_path / "out")
    asked = ["--data.name=digits", f"--out={out.path}", "--norm=2", "--epsilons=[0.01]", "--num_examples=10"]
    assert main(["certify", own, *asked]) == 0
    attacks = "--evaluation.attacks=[{class_path: PGD, init_args: {norm: 2, num_steps: 2}}]"
    assert main(["evaluate", str(out.path), attacks, "--evaluation.epsilons=[0.1]"]) == 0
    assert metrics_of(out.path)["attacks"][0]["name"] == "pgd-2-l2"
