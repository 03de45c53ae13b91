"""``withstand certify`` as a user meets it: on runs, on models of their own, and with bad input."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from withstand.certificates import Certification, Certifier
from withstand.cli.entry import main
from withstand.core.run_folder import RunFolder
from withstand.reporting.table import one, select
from withstand.results import Results, read_results
from withstand.results.measurements import ATTACKED, CERTIFIED, CLEAN, MEAN_RADIUS
from withstand.runs.run_parts import open_run

SMALL = [
    "--objective=CrossEntropy",
    "--model.name=mlp",
    "--model.options={hidden: [16]}",
    "--training.epochs=2",
    "--training.selection=null",
    "--training.rollback=null",
    "--training.accelerator=cpu",
    "--data.validation_size=100",
    "--evaluation.num_examples=40",
    "--evaluation.meters=[Attacks]",
    "--evaluation.meters.attacks=[{class_path: PGD, init_args: {norm: 2, num_steps: 3}}]",
    "--evaluation.meters.epsilons=[0.1]",
]
CERTIFICATES = [
    *(
        "--evaluation.meters+=Certificate",
        "--evaluation.meters.norm=inf",
        "--evaluation.meters.epsilons=[0.005,0.01]",
    ),
    *("--evaluation.meters+=Certificate", "--evaluation.meters.norm=2", "--evaluation.meters.epsilons=[0.1]"),
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


def results_of(run: Path) -> tuple[Results, pd.DataFrame]:
    results_and_table = read_results(RunFolder(run))
    assert results_and_table is not None
    return results_and_table


def levels(table: pd.DataFrame, measure: str, by: str) -> list[float]:
    return list(select(table, measure, by=by)["level"])


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The error text of a command that must fail, in one line."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    return " ".join(capsys.readouterr().err.split())


def test_certify_adds_to_what_was_attacked(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (_, before), rows = results_of(run), pd.read_csv(run / "examples.csv")
    asked = ["--norm=2", "--epsilons=[8/255,0.1]", "--radius=true", "--batch_size=16"]
    assert main(["certify", str(run), *asked]) == 0
    shown = capsys.readouterr().out
    assert "certified-ℓ₂" in shown
    assert "certified radius mean" in shown
    results, table = results_of(run)
    for measure in (CLEAN, ATTACKED):
        of_before = select(before, measure)
        pd.testing.assert_frame_equal(select(table, measure).head(len(of_before)), of_before)
    assert [info.name for info in results.attacks] == ["pgd-3-l2", "pgd-20-margin-l2"]
    (certificate,) = results.certificates
    assert levels(table, CERTIFIED, certificate.name) == [8 / 255, 0.1]
    proven, left = one(table, CERTIFIED), one(table, ATTACKED, by="pgd-20-margin-l2", level=8 / 255)
    assert proven is not None
    assert left is not None
    assert 0 < (proven.correct or 0) <= (left.correct or 0)
    merged = pd.read_csv(run / "examples.csv")
    pd.testing.assert_frame_equal(merged[list(rows)], rows)
    assert (merged["certified-l2@0.0313725"] == (merged["radius-l2"] >= 8 / 255)).all()
    environment = json.loads((run / "environment.json").read_text())
    assert environment["certify_command"].endswith("--radius=true --batch_size=16")
    assert environment["cost"]["certify_seconds"] > 0
    assert main(["certify", str(run), "--norm=inf", "--epsilons", "0.01", "--method=box"]) == 0
    names = [info.name for info in results_of(run)[0].certificates]
    assert names == ["certified-l2", "certified-box-linf"]
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "certified (best)" in page
    assert "certified (box)" in page
    assert "withstand certify" in page


def test_evaluate_leaves_what_was_certified_apart(run: Path) -> None:
    assert main(["certify", str(run), "--norm=2", "--epsilons=[0.1]"]) == 0
    certified = pd.read_csv(run / "examples.csv")["certified-l2@0.1"]
    assert main(["evaluate", str(run)]) == 0
    assert [info.name for info in results_of(run)[0].certificates] == ["certified-l2"]
    assert pd.read_csv(run / "examples.csv")["certified-l2@0.1"].equals(certified)
    assert "certify" in json.loads((run / "environment.json").read_text())["certify_command"]


def test_evaluate_of_other_examples_forgets_what_was_certified_apart(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["certify", str(run), "--norm=2", "--epsilons=[0.1]"]) == 0
    assert main(["evaluate", str(run), "--evaluation.num_examples=30"]) == 0
    assert "The figures of Certificate were measured with --evaluation.num_examples=" in caplog.text
    assert results_of(run)[0].certificates == []
    assert not any("certified" in str(name) for name in pd.read_csv(run / "examples.csv"))


def test_certify_takes_what_to_certify_from_the_recipe(run: Path) -> None:
    assert main(["evaluate", str(run), *CERTIFICATES]) == 0
    _, table = results_of(run)
    assert levels(table, CERTIFIED, "certified-linf") == [0.005, 0.01]
    assert levels(table, CERTIFIED, "certified-l2") == [0.1]
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    requested = {"class_path": "Certificate", "init_args": {"norm": math.inf, "epsilons": [0.02]}}
    recipe["evaluation"]["meters"].append(requested)
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["certify", str(run), "--radius=true", "--norm=2"]) == 0
    _, table = results_of(run)
    assert list(select(table, MEAN_RADIUS)["by"]) == ["certified-l2"]
    assert levels(table, CERTIFIED, "certified-linf") == [0.005, 0.01]
    assert main(["certify", str(run)]) == 0
    _, table = results_of(run)
    assert levels(table, CERTIFIED, "certified-linf") == [0.005, 0.01, 0.02]
    assert list(select(table, MEAN_RADIUS)["by"]) == ["certified-l2"]


def test_certify_scores_a_run_clean_that_was_never_evaluated(run: Path) -> None:
    for name in ("examples.csv", "measurements.csv", "metrics.json", "gallery.npz"):
        (run / name).unlink()
    assert main(["certify", str(run), "--norm=inf", "--epsilons=[0.01]", "--num_examples=30"]) == 0
    results, table = results_of(run)
    assert set(table["total"][table["measure"].isin([CLEAN, ATTACKED, CERTIFIED])]) == {30}
    assert [info.name for info in results.attacks] == ["pgd-20-margin-linf"]
    assert [info.name for info in results.certificates] == ["certified-linf"]


def test_false_certificate_ends_in_an_error_after_the_rows_are_written(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Boastful(Certifier):
        def certify(
            self, images: Tensor, labels: Tensor, *, norm: float, epsilon: float | Tensor
        ) -> Certification:
            margin = torch.ones(len(images), dtype=torch.float64)
            return Certification(margin, margin > 0, torch.zeros_like(margin), "float32")

    before = pd.read_csv(run / "examples.csv")
    monkeypatch.setattr("withstand.evaluation.proofs.Certifier", Boastful)
    text = failed(capsys, "certify", str(run), "--norm=2", "--epsilons=[2]")
    assert "certified-l2 at epsilon 2:" in text
    assert "examples.csv" in text
    assert not (run / "metrics.json").exists()  # nothing is to be trusted until it is measured again
    pd.testing.assert_frame_equal(pd.read_csv(run / "examples.csv")[list(before)], before)
    assert "certified-l2@2" in pd.read_csv(run / "examples.csv")
    assert "certified-l2" in failed(
        capsys, "evaluate", str(run), *CERTIFICATES[3:5], "--evaluation.meters.epsilons=[2]"
    )


def test_certify_makes_a_run_folder_of_a_users_own_model(
    own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["certify", own, "--data.name=digits", f"--out={out}", "--norm=2", "--num_examples=20"]
    assert main([*command, "--epsilons=[0.001]", "--model.options={width: 5}"]) == 0
    assert len(pd.read_csv(out / "examples.csv")) == 20
    assert results_of(out)[0].certificates[0].name == "certified-l2"
    state = load_file(out / "last.safetensors")
    assert state["1.weight"].shape == (5, 64)  # as it is: without a normalisation before it
    assert open_run(out)[1].recipe.model.options == {"width": 5}
    assert main(["report", str(out)]) == 0
    assert "Evaluation of net.py:make on digits" in (out / "report.html").read_text()
    assert main(["certify", str(out), "--norm=inf", "--epsilons=[0.001]"]) == 0
    assert main([*command, "--epsilons=[0.002]", "--model.options={width: 5}"]) == 0
    results, table = results_of(out)
    assert len(results.certificates) == 2
    assert levels(table, CERTIFIED, "certified-l2") == [0.001, 0.002]
    assert "Choose another folder" in failed(
        capsys, *command, "--epsilons=[0.1]", "--model.options={width: 6}"
    )
    weights = f"--weights={out / 'last.safetensors'}"
    other = ["certify", own, "--data.name=digits", f"--out={tmp_path / 'other'}", "--norm=2", weights]
    assert main([*other, "--epsilons=[0.001]", "--model.options={width: 5}", "--num_examples=20"]) == 0
    first, second = (pd.read_csv(folder / "examples.csv") for folder in (out, tmp_path / "other"))
    assert first["prediction"].equals(second["prediction"])


def test_certify_says_what_to_do_on_bad_input(
    run: Path, own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on_run = ["certify", str(run)]
    assert "--norm=2 --epsilons=[0.5,1.58]" in failed(capsys, *on_run)
    assert "--epsilons" in failed(capsys, *on_run, "--norm=2")
    assert "for the norms l1, l2 and linf" in failed(capsys, *on_run, "--norm=3", "--epsilons=[0.1]")
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


def test_certify_makes_rows_whole_that_were_cut(run: Path) -> None:
    whole = pd.read_csv(run / "examples.csv")
    lines = (run / "examples.csv").read_text().splitlines()
    (run / "examples.csv").write_text("\n".join(lines[:-3]))
    assert main(["certify", str(run), "--norm=2", "--epsilons=[0.1]"]) == 0
    pd.testing.assert_frame_equal(pd.read_csv(run / "examples.csv")[list(whole)], whole)


def test_certify_interrupted_changes_no_figures(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Certifier):
        def radius(self, images: Tensor, labels: Tensor, *, norm: float, tolerance: float = 1e-3) -> Tensor:
            raise KeyboardInterrupt

    before = (run / "examples.csv").read_text(), (run / "metrics.json").read_text()
    monkeypatch.setattr("withstand.evaluation.proofs.Certifier", Slow)
    assert main(["certify", str(run), "--norm=2", "--epsilons=[0.1]", "--radius=true"]) == 130
    assert "Results so far stay" in capsys.readouterr().err
    assert ((run / "examples.csv").read_text(), (run / "metrics.json").read_text()) == before


@pytest.mark.parametrize(
    "arguments",
    [["cnn-small", "--data.name=mnist"], ["digits-adversarial"], ["RUN"], ["OWN", "--data.name=digits"]],
)
def test_check_says_that_bounds_pass(
    arguments: list[str], run: Path, own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = {"RUN": str(run), "OWN": own}.get(arguments[0], arguments[0])
    capsys.readouterr()
    assert main(["check", name, *arguments[1:]]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "certificates, l2 yes certificates, linf yes" in shown
    assert "certified: box and ball (BCP) yes" in shown
    assert "10 logits an image" in shown


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
    assert main(["check", f"{tmp_path / 'net.py'}:make", "--data.name=digits"]) == 0
    text = capsys.readouterr().out
    assert "1. " in text
    assert "2. " in text
    assert "sin" in text
    assert "aten.cumsum" in text
    assert text.count("withstand.domains.register") == 2


def test_check_names_what_does_not_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'digits-adversarial'" in failed(capsys, "check", "digits-adversrial")
    assert "withstand train" in failed(capsys, "check", str(tmp_path))
    assert "--data.name=mnist" in failed(capsys, "check", "lenet")
    assert "did you mean '--data.name'" in failed(capsys, "check", "lenet", "--data.nam=mnist")


def test_certify_makes_a_run_folder_that_can_be_evaluated(own: str, tmp_path: Path) -> None:
    out = RunFolder(tmp_path / "out")
    asked = ["--data.name=digits", f"--out={out.path}", "--norm=2", "--epsilons=[0.01]", "--num_examples=10"]
    assert main(["certify", own, *asked]) == 0
    attacks = "--evaluation.meters.attacks=[{class_path: PGD, init_args: {norm: 2, num_steps: 2}}]"
    added = ["--evaluation.meters+=Attacks", attacks, "--evaluation.meters.epsilons=[0.1]"]
    assert main(["evaluate", str(out.path), *added, "--evaluation.num_examples=10"]) == 0
    results, _ = results_of(out.path)
    assert [info.name for info in results.attacks] == ["pgd-2-l2", "pgd-20-margin-l2"]
