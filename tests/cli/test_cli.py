"""The command line as a user meets it: whole runs on the digits, and every kind of bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from withstand.cli.entry import main
from withstand.recipes.parsing import packaged_recipes
from withstand.recipes.sweep import packaged_sweeps
from withstand.reporting.table import one, select
from withstand.results.measurements import ATTACKED, CLEAN

SMALL = [
    "--training.epochs=2",
    "--training.optimizer.lr=0.003",  # with the recipe's own, so few steps end in one answer to all images
    "--data.train_size=200",
    "--data.validation_size=100",
    "--objective.attack.num_steps=2",
    "--training.selection.num_steps=2",
    "--training.accelerator=cpu",
    "--evaluation.num_examples=40",
    "--evaluation.meters.0.epsilons=[8/255,0.5]",
    "--evaluation.meters.0.attacks=[{class_path: PGD, init_args: {num_steps: 3}}]",
    "--evaluation.meters.1.epsilons=[8/255,0.5]",
]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, to be copied."""
    out = tmp_path_factory.mktemp("small") / "run"
    assert main(["run", "digits-adversarial", *SMALL, f"--out={out}"]) == 0
    return out


@pytest.fixture
def finished(small_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_run, tmp_path / "run"))


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The error text of a command that must fail, in one line."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    return " ".join(capsys.readouterr().err.split())


def test_run_leaves_every_file_of_the_run_folder(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {
        "recipe.yaml",
        "environment.json",
        "train.csv",
        "model.json",
        "model.safetensors",
        "last.safetensors",
        "checkpoint",
        ".lock",
        ".withstand",
        "evaluation",
        "examples.csv",
        "gallery.npz",
        "measurements.csv",
        "metrics.json",
        "report.html",
        "trust.json",
    }
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["command"].startswith("withstand run digits-adversarial --training.epochs=2")
    assert environment["cost"]["train_steps"] == 8
    assert environment["cost"]["evaluate_seconds"] > 0
    table = pd.read_csv(finished / "measurements.csv")
    attack = json.loads((finished / "metrics.json").read_text())["attacks"][0]["name"]
    assert list(select(table, ATTACKED, by=attack)["level"]) == [8 / 255, 0.5]
    clean = one(table, CLEAN)
    assert clean is not None
    assert clean.total == 40
    assert len(pd.read_csv(finished / "examples.csv")) == 40
    page = (finished / "report.html").read_text()
    assert f"{clean.value:.1%}".removesuffix("%") in page


def test_stages_can_be_run_again_alone(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = (finished / "last.safetensors").read_bytes()
    assert main(["evaluate", str(finished), "--evaluation.num_examples", "20"]) == 0
    assert json.loads((finished / "metrics.json").read_text())["num_examples"] == 20
    (finished / "report.html").unlink()
    assert main(["report", str(finished)]) == 0
    assert (finished / "report.html").exists()
    assert main(["attack", str(finished), "--epsilon=8/255", "--num_examples=20", "--norm=2"]) == 0
    assert main(["attack", str(finished), "--epsilon", "0.1", "--norm=inf"]) == 0
    out = capsys.readouterr().out
    assert "pgd-10-ℓ₂" in out
    assert "pgd-10-ℓ∞" in out
    assert "--evaluation.num_examples=10" in failed(capsys, "attack", str(finished), "--num_examples=10")
    trained = json.loads((finished / "environment.json").read_text())
    again = ["run", "digits-adversarial", *SMALL, "--evaluation.num_examples=10", f"--out={finished}"]
    assert main(again) == 0  # nothing is left to train
    now = json.loads((finished / "environment.json").read_text())
    assert now["command"] == trained["command"]
    assert "--evaluation.num_examples=10" in now["evaluate_command"]
    assert now["cost"]["train_seconds"] == trained["cost"]["train_seconds"]
    assert (finished / "last.safetensors").read_bytes() == weights


def test_evaluate_says_how_to_repeat_it_and_changes_nothing_that_was_trained(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(finished), "--evaluation.meters.0.epsilons=[0.2]"]) == 0
    assert main(["report", str(finished)]) == 0
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["evaluate_command"].endswith("'--evaluation.meters.0.epsilons=[0.2]'")
    page = (finished / "report.html").read_text()
    assert "withstand run digits-adversarial" in page
    assert "withstand evaluate" in page
    meters = json.loads((finished / "metrics.json").read_text())["settings"]["meters"]
    assert [0.2] in [meter.get("init_args", {}).get("epsilons") for meter in meters]
    assert "training.epochs: 2 then, 9 now" in failed(
        capsys, "evaluate", str(finished), "--training.epochs=9"
    )


def test_run_with_penalty_constraint_and_kernel_norms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The third family from one command, everything on: as a user combines it."""
    out = tmp_path / "run"
    command = [
        "run",
        "mnist-300-small",
        "--data.name=digits",
        "--data.train_size=96",
        "--data.validation_size=20",
        "--training.epochs=1",
        "--training.accelerator=cpu",
        "--training.augment={class_path: withstand.data.Deform, init_args: {translation: 1}}",
        "--training.constraints="
        "[{class_path: SpectralBall, init_args: {radius: 2.0, every: 2, subspace: 2}}]",
        "--objective={class_path: Sum, init_args: {terms: [CrossEntropy,"
        "{class_path: Weighted, init_args: {weight: 0.1, term: InputGradient}},"
        "{class_path: Weighted, init_args: {weight: 0.1, term: SpectralNorm}}]}}",
        "--objective.terms.1.weight=0.2",
        "--evaluation.num_examples=30",
        "--evaluation.meters+=KernelNorms",
        "--evaluation.meters.num_examples=10",
    ]
    assert main([*command, f"--out={out}"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    bounds = json.loads((out / "metrics.json").read_text())["kernel_norms"]["largest"]
    assert f"kernel norms: at least gradient {bounds['gradient']:.4g}" in shown
    assert f"at most {bounds['spectral']:.4g}" in shown
    assert "weight: 0.2" in (out / "recipe.yaml").read_text()
    columns = pd.read_csv(out / "train.csv").columns
    assert {"cross_entropy", "input_gradient", "spectral_norm"} <= set(columns)
    for name, weight in load_file(out / "last.safetensors").items():
        if weight.dim() > 1:
            assert torch.linalg.matrix_norm(weight.flatten(1), 2) <= 2.0 * (1 + 1e-5), name
    assert main(["evaluate", str(out)]) == 0  # and the folder is read back as it is


def test_evaluate_refuses_a_run_that_did_not_end(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (finished / "last.safetensors").unlink()  # written when training has come to its end
    assert "withstand train" in failed(capsys, "evaluate", str(finished))


def test_report_of_several_runs_is_one_page(finished: Path, tmp_path: Path) -> None:
    page = tmp_path / "compare.html"
    assert main(["report", str(finished), str(finished), f"--out={page}"]) == 0
    assert page.stat().st_size > 10_000


def test_train_refuses_another_recipe_in_the_same_folder(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "recipe.yaml").read_text()
    text = failed(
        capsys, "train", "digits-adversarial", *SMALL, "--training.batch_size=7", f"--out={finished}"
    )
    assert "training.batch_size: 64 then, 7 now" in text
    assert "--out" in text
    assert (finished / "recipe.yaml").read_text() == before


def test_main_says_what_to_do_on_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = f"--out={tmp_path / 'x'}"
    assert "did you mean 'train'" in failed(capsys, "trian")
    assert "did you mean 'digits-adversarial'" in failed(capsys, "run", "digits-adversrial", out)
    assert "first argument" in failed(capsys, "run", "--training.epochs=2")
    assert "'training.epochs'" in failed(capsys, "run", "digits-adversarial", "--training.epoks=2", out)
    assert "did you mean 'mnist'" in failed(capsys, "run", "digits-adversarial", "--data.name=mnst", out)
    assert "did you mean 'lenet'" in failed(capsys, "run", "digits-adversarial", "--model.name=lanet", out)
    assert "training.accelerator" in failed(
        capsys, "train", "digits-adversarial", "--training.accelerator=abacus", out
    )
    missing = failed(capsys, "run", "digits-adversarial", "--data.name=mnist", f"--data.root={tmp_path}", out)
    assert "withstand data fetch mnist" in missing
    assert "withstand train RECIPE" in failed(capsys, "evaluate", str(tmp_path))
    assert "did you mean '--epsilon'" in failed(capsys, "attack", str(tmp_path), "--epsilo=0.1")
    assert "optimiser" in failed(
        capsys,
        "train",
        "digits-adversarial",
        "--training.optimizer=torch.optim.SGD",
        "--training.optimizer.lr=-1",
        out,
    )
    assert "num_examples" in failed(capsys, "attack", str(tmp_path), "--num_examples=0")
    assert "fetch NAME" in failed(capsys, "data", "burn")
    assert not (tmp_path / "x" / "model.safetensors").exists()


def test_run_takes_a_users_own_model(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def make(num_classes, width):\n"
        "    layers = nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_classes)\n"
        "    return nn.Sequential(nn.Flatten(), *layers)\n"
    )
    out = tmp_path / "run"
    own = [f"--model.name={tmp_path / 'mine.py'}:make", "--model.options={width: 9}"]
    assert main(["run", "digits-adversarial", *SMALL, *own, f"--out={out}"]) == 0
    assert load_file(out / "model.safetensors")["network.1.weight"].shape == (9, 64)


def test_main_prints_help_and_lists(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["--version"], ["recipes"], ["recipes", "mnist-iat"], ["data"]):
        assert main(arguments) == 0
    out = capsys.readouterr().out
    assert all(
        command in out
        for command in ("run RECIPE", "evaluate RUN", "certify RUN", "check MODEL", "report RUN")
    )
    assert all(name in out for name in (*packaged_recipes(), *packaged_sweeps()))
    assert "fashion-mnist" in out
    commands = ["run", "train", "evaluate", "certify", "check", "attack"]
    for command in [*commands, "report", "sweep", "recipes", "data"]:
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert "usage" in capsys.readouterr().out.lower()


def test_run_prints_all_values_of_its_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["run", "digits-adversarial", "--seed=9", "--print_config"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "seed: 9" in shown
    assert "num_restarts: 5" in shown


def test_train_killed_and_resumed_has_the_same_weights(tmp_path: Path) -> None:
    """A real SIGKILL, at moments that fall where they may, until the run ends by itself."""
    arguments = [*SMALL, "--training.epochs=6", "--training.checkpoint_seconds=0.0"]
    assert main(["train", "digits-adversarial", *arguments, f"--out={tmp_path / 'whole'}"]) == 0
    out = tmp_path / "cut"
    command = [sys.executable, "-c", "import sys; from withstand.cli.entry import main; sys.exit(main())"]
    command += ["train", "digits-adversarial", *arguments, f"--out={out}"]
    kills = 0
    for kill_at in (2, 5, 10**9):  # of some 24 checkpoints, so that a busy machine may miss many
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        kills += killed_after(process, out / "checkpoint" / "last.pt", kill_at)
    assert kills == 2
    assert process.returncode == 0
    for name in ("last.safetensors", "model.safetensors"):
        whole, cut = load_file(tmp_path / "whole" / name), load_file(out / name)
        assert all(torch.equal(whole[key], cut[key]) for key in whole)


def killed_after(process: subprocess.Popen[bytes], checkpoint: Path, num_checkpoints: int) -> bool:
    """Kills a process once it has written so many checkpoints; False where it ended before."""
    seen: set[int] = set()
    while process.poll() is None:
        if checkpoint.exists():
            seen.add(checkpoint.stat().st_mtime_ns)
        if len(seen) >= num_checkpoints:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.001)
    return False


def test_attack_scores_random_weights_as_their_recipe_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "recipe.yaml", tmp_path / "run"
    file.write_text(
        "data: {name: digits, train_size: 40, validation_size: 20}\n"
        "model: {name: mlp, options: {hidden: [8]}, bayes: {}}\n"
        "objective: {class_path: Variational}\n"
        "training: {epochs: 1, batch_size: 20}\n"
        "evaluation:\n"
        "  sampling: {num_samples: 3, num_repeats: 2, attack_samples: 5}\n"
        "  meters: [{class_path: Uncertainty, init_args: {num_samples: 1, out_of_distribution: [mnist]}}]\n"
    )
    assert main(["train", str(file), f"--out={out}"]) == 0
    attack = ["--epsilon=0.1", "--num_steps=2", "--num_examples=6"]
    capsys.readouterr()
    for options, expected in (
        ([], "2 predictions an image, each the mean of 3 draws; gradients of 5 draws"),
        (["--num_samples=1", "--attack_samples=2"], "each the mean of 1 draw; gradients of 2 draws"),
        (["--most_attack_samples=4"], "each the mean of 3 draws; gradients of "),
    ):
        run = shutil.copytree(out, tmp_path / f"run{len(options)}{len(expected)}")
        assert main(["attack", str(run), *attack, *options]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert expected in text
        assert ("gradients of 5" in text) == (not options)
        assert "digits, 2 predictions an example" in text
        assert "of 6 examples" in text
        assert "uncertainty" not in text
        # Figures of one folder are comparable: no attack is scored otherwise than another.
        assert "--num_samples" in failed(capsys, "attack", str(run), *attack, "--num_samples=7")
    assert "num_samples" in failed(capsys, "attack", str(out), *attack, "--num_samples=0")


def test_run_asks_for_all_its_data_before_it_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [
        *("digits-adversarial", *SMALL, "--model.bayes={}", f"--data.root={tmp_path}"),
        *("--evaluation.meters+=Uncertainty", "--evaluation.meters.out_of_distribution=[mnist]"),
        f"--out={tmp_path / 'run'}",
    ]
    assert "mnist" in failed(capsys, "run", *asked)
    assert not (tmp_path / "run").exists()
    assert main(["train", *asked]) == 0
