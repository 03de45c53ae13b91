"""The command ``withstand sweep``: runs what is not done, and says what failed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from safetensors.torch import load_file

from withstand.cli.entry import main
from withstand.recipes.sweep import Sweep

SMALL = [
    "--training.epochs=1",
    "--data.train_size=60",
    "--data.validation_size=30",
    "--training.selection=null",
    "--training.accelerator=cpu",
    "--evaluation.num_examples=20",
    "--evaluation.meters=[Attacks]",
    "--evaluation.meters.attacks=[{class_path: PGD, init_args: {num_steps: 1}}]",
    "--evaluation.meters.epsilons=[0.1]",
]
SWEEP = """
name: mine
title: My sweep
recipe: digits-adversarial
over: {"seed,data.seed": [0, 1]}
variants:
  plain: {objective: {class_path: CrossEntropy}}
  strong: {objective.attack.epsilon: 0.1, objective.attack.num_steps: 1}
"""
POINTS = [f"{variant}/seed={seed}" for variant in ("plain", "strong") for seed in (0, 1)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(SWEEP)
    return path


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def test_sweep_runs_every_point_once_and_repeats_one_alone(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["sweep", str(file), *SMALL, "--out", str(out)]
    assert main(command) == 0
    printed = shown(capsys)
    assert [f"[{number}/4] {point}: clean" in printed for number, point in enumerate(POINTS, 1)] == [True] * 4
    assert "My sweep" not in printed  # which is of the sweep as it is in its file
    assert all((out / point / "metrics.json").exists() for point in POINTS)
    assert "<h1>mine</h1>" in (out / "report.html").read_text()

    begun = {point: (out / point / "metrics.json").stat().st_mtime_ns for point in POINTS}
    (out / "plain/seed=1/metrics.json").unlink()
    assert main(command) == 0
    assert shown(capsys).count("done before") == 3
    done = {point: (out / point / "metrics.json").stat().st_mtime_ns for point in POINTS}
    assert [point for point in POINTS if done[point] != begun[point]] == ["plain/seed=1"]

    alone = json.loads((out / "strong/seed=1/environment.json").read_text())["command"]
    assert main([*shlex.split(alone)[1:], f"--out={tmp_path / 'alone'}"]) == 0
    ours, again = (
        load_file(folder / "last.safetensors") for folder in (out / "strong/seed=1", tmp_path / "alone")
    )
    assert all(ours[name].equal(again[name]) for name in ours)


def test_sweep_measures_another_evaluation_without_training_again(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", str(file), *SMALL, "--over", "seed=3", f"--out={tmp_path}"]
    assert main(command) == 0
    environment = tmp_path / "plain/seed=3/environment.json"
    began = json.loads(environment.read_text())["started"], json.loads(environment.read_text())["command"]
    shown(capsys)
    assert main([*command, "--evaluation.meters.0.attacks.0.num_steps=2"]) == 0
    assert "done before" not in shown(capsys)
    again = json.loads(environment.read_text())
    assert (again["started"], again["command"]) == began  # of the training; that of the evaluation is new
    assert "num_steps=2" in again["evaluate_command"]
    settings = json.loads((tmp_path / "plain/seed=3/metrics.json").read_text())["settings"]
    attacks = [attack for meter in settings["meters"] for attack in meter["init_args"]["attacks"]]
    assert [attack["init_args"]["num_steps"] for attack in attacks] == [1, 2]
    shown(capsys)
    assert main(command) == 0  # of what is held, the former attack is all that is asked for
    assert shown(capsys).count("done before") == 2


def test_sweep_passes_over_a_point_where_as_much_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", "digits-adversarial", "--over=seed=0", *SMALL, f"--out={tmp_path}"]
    assert main([*command, "--evaluation.meters+=NoiseCurve", "--evaluation.meters.num_levels=2"]) == 0
    assert main(["attack", str(tmp_path / "seed=0"), "--epsilon=0.05", "--num_steps=1"]) == 0
    for overrides, is_done in (
        ([], True),
        (["--evaluation.meters=[]"], True),
        (["--title=Other words"], True),
        (["--evaluation.meters+=Classes"], False),
        (["--evaluation.batch_size=7"], False),
        (["--evaluation.num_examples=5"], False),
        (["--evaluation.num_examples=5"], True),
    ):
        shown(capsys)
        assert main([*command, *overrides]) == 0
        assert ("done before" in shown(capsys)) == is_done, overrides


def test_sweep_goes_on_after_a_point_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    over = ["--over", "data.validation_size=100000,30", "--over=seed=0"]
    small = [setting for setting in SMALL if "validation_size" not in setting]
    out = tmp_path / "out"
    assert main(["sweep", "digits-adversarial", *over, *small, f"--out={out}"]) == 2
    printed = shown(capsys)
    assert "1 of 2 points failed" in printed
    assert "[2/2] validation_size=30,seed=0: clean" in printed
    assert (out / "validation_size=30,seed=0" / "metrics.json").exists()
    assert (out / "report.html").exists()


def test_sweep_does_not_overwrite_a_folder_of_another_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", "digits-adversarial", "--over=seed=0", *SMALL, f"--out={tmp_path}"]
    assert main(command) == 0
    before = (tmp_path / "seed=0/recipe.yaml").read_text()
    assert main([*command, "--training.epochs=2"]) == 2
    assert "holds a run of another recipe" in shown(capsys)
    assert (tmp_path / "seed=0/recipe.yaml").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs SWEEP or RECIPE"),
        (["digits-adversarial"], "varies nothing"),
        (["nonsense", "--over=seed=0"], "no sweep and no recipe 'nonsense'"),
        (["digits-adversarial", "--over=seed=0,1", "--seed=3"], "varies seed, so --seed cannot fix it"),
        (
            ["digits-adversarial", "--over=trainin.epochs=1,2"],
            r"'trainin.epochs'. Did you mean 'training.epochs'",
        ),
        (["digits-adversarial", "--over", "seed"], "Expected --over key=v1,v2"),
        (["digits-adversarial", "--over=evaluation.meters.0.attacks.9.num_steps=1,2"], "list of 2 items"),
    ],
)
def test_sweep_refuses_bad_input_before_anything_runs(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["sweep", *arguments, *([f"--out={out}"] if arguments else [])]) == 2
    assert message in shown(capsys)
    assert not out.exists()


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        (("nn.ReLU()", "nn.Tanh()"), "is not the one that was trained there"),
        (("nn.Linear(64, 8)", "nn.Linear(64, 8, bias=False)"), "is not the one that was trained there"),
    ],
)
def test_sweep_does_not_pass_over_a_point_whose_network_has_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: tuple[str, str], what: str
) -> None:
    file, text = (
        tmp_path / "net.py",
        (
            "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), "
            "nn.ReLU(), nn.Linear(8, 10))\n"
        ),
    )
    file.write_text(text)
    model = [f"--model.name={file}:make", "--model.options={}"]
    command = ["sweep", "digits-adversarial", "--over=seed=0", *SMALL, *model, f"--out={tmp_path / 'out'}"]
    assert main(command) == 0
    assert main(command) == 0
    assert "done before" in shown(capsys)
    file.write_text(text.replace(*changed))
    assert main(command) == 2
    printed = shown(capsys)
    assert "done before" not in printed
    assert what in printed


def test_sweep_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    assert "--over" in shown(capsys)


@pytest.mark.parametrize(
    ("options", "title"),
    [
        (["--data.root=elsewhere", "--training.accelerator=cpu"], "What it says"),
        (["--training.epochs=0"], "mine"),
        (["--over", "seed=1"], "mine"),
    ],
)
def test_sweep_has_its_own_title_where_the_command_changes_nothing_of_it(
    options: list[str], title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("title: What it says\nrecipe: digits-adversarial\nover: {seed: [0, 1]}\n")
    titles: list[str] = []

    def noting(chosen: Sweep, *_: object) -> dict[str, str]:
        titles.append(chosen.title or chosen.name)
        return {}

    monkeypatch.setattr("withstand.cli.sweep._run_all", noting)
    monkeypatch.setattr("withstand.cli.sweep._finish", lambda *_: None)
    assert main(["sweep", str(file), *options]) == 0
    assert titles == [title]
