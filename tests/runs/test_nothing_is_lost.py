"""Files of others stay, changes since training are said, and a start that fails leaves nothing."""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from withstand.attacks import PGD
from withstand.cli.entry import main
from withstand.core.run_folder import RUN_FILES, RunFolder, replaced
from withstand.core.trust import is_trusted, trusting
from withstand.data import Dataset
from withstand.evaluation import evaluate
from withstand.evaluation.meters import Attacks
from withstand.objectives import CrossEntropy
from withstand.reporting import report
from withstand.training import TrainingSettings, fit
from withstand.types import ModelError, RunFolderError

_NET = """
from torch import nn


def net(input_shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, num_classes))  # a net
"""
_RECIPE = """
name: mine
data: {{name: digits, train_size: 200}}
model: {{name: "{net}:net"}}
training: {{epochs: 1, accelerator: cpu}}
evaluation: {{num_examples: 50}}
"""
_BOTH = ("recipe.yaml", "model.json", "environment.json", "train.csv", "examples.csv", "model.safetensors")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(_NET)
    file = tmp_path / "mine.yaml"
    file.write_text(_RECIPE.format(net=tmp_path / "net.py"))
    with trusting(["--trust"]):
        assert is_trusted(file)  # and is from now on, in every command
    return file


def did(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit status of a command, and all that it printed on one line."""
    capsys.readouterr()
    status = main(arguments)
    printed = capsys.readouterr()
    return status, " ".join((printed.out + printed.err).split())


def fitted(model: nn.Module, dataset: Dataset, out: Path | str) -> None:
    fit(model, dataset, CrossEntropy(), TrainingSettings(epochs=1, accelerator="cpu"), out=out)


# What someone else wrote


@pytest.mark.parametrize("name", _BOTH)
@pytest.mark.parametrize("out", ["--out=.", "--out=there"])
def test_train_replaces_no_file_that_it_did_not_write(
    name: str, out: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = recipe.parent / out.removeprefix("--out=") / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    status, text = did(capsys, "train", str(recipe), out)
    assert status == 2
    assert name in text
    assert file.read_text() == "mine"
    assert not (file.parent / "checkpoint").exists()


@pytest.mark.parametrize("name", RUN_FILES)
def test_run_folder_is_not_made_where_something_of_another_kind_lies(name: str, tmp_path: Path) -> None:
    there = tmp_path / name
    if name in ("checkpoint", "evaluation", "source"):
        there.write_text("a file")
    else:
        there.mkdir()
    with pytest.raises(RunFolderError, match=rf"{name} is a f.*belongs there"):
        RunFolder(tmp_path).create()


@pytest.mark.parametrize("name", ["checkpoint", "evaluation"])
def test_run_folder_takes_over_no_folder_of_someone_else(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(RunFolderError, match=rf"no run folder, but holds {name}"):
        RunFolder(tmp_path).create()


@pytest.mark.parametrize("made_by", ["environment.json", "metrics.json", "checkpoint"])
def test_run_folder_of_an_older_version_is_known(made_by: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    if made_by == "checkpoint":
        run.train_log.write_text("epoch\n1\n")
        run.checkpoints.mkdir()
        (run.checkpoints / "good.pt").write_text("")
    run.environment.write_text(
        '{"versions": {"withstand": "0.1.0"}}' if made_by == "environment.json" else "{}"
    )
    run.metrics.write_text('{"schema": 1}' if made_by == "metrics.json" else "{}")
    run.create()


def test_evaluate_writes_beside_weights_that_someone_else_saved(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").write_text("mine")
    evaluate(tiny_model, tiny_dataset, out=tmp_path)
    assert (tmp_path / "model.safetensors").read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "examples.csv").write_text("mine")
    with pytest.raises(RunFolderError, match=r"examples\.csv, which was not written"):
        evaluate(tiny_model, tiny_dataset, out=tmp_path / "other")


@pytest.mark.parametrize("name", ["", " ", "..", ".", "a//b", "../../x", "a/../../b", "/tmp/x", "a\\b"])
def test_name_of_a_recipe_leads_nowhere_else(
    name: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(recipe.parent.rglob("*"))
    status, text = did(capsys, "train", str(recipe), f"--name={name}")
    assert status == 2
    assert "folder in runs" in text or "name" in text
    assert sorted(recipe.parent.rglob("*")) == before


@pytest.mark.parametrize("command", ["train", "run", "certify", "sweep"])
def test_empty_out_is_refused(command: str, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = {"certify": f"{recipe.parent}/net.py:net"}.get(command, str(recipe))
    more = {"certify": ["--data.name=digits", "--norm=2", "--epsilons=[0.1]"], "sweep": ["--over=seed=0,1"]}
    before = sorted(recipe.parent.rglob("*"))
    status, text = did(capsys, command, target, *more.get(command, []), "--out=")
    assert status == 2
    assert "is empty" in text
    assert sorted(path for path in recipe.parent.rglob("*") if "__pycache__" not in str(path)) == before


def test_paths_that_cannot_be_written_down_are_refused_at_the_start(
    tiny_model: nn.Module, tiny_dataset: Dataset, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = os.fsdecode(b"out-\xff")
    status, text = did(capsys, "train", str(recipe), f"--out={path}")
    assert status == 2
    assert "UTF-8" in text
    with pytest.raises(RunFolderError, match="UTF-8"):
        fitted(tiny_model, tiny_dataset, path)
    with pytest.raises(TypeError, match="path of a run folder"):
        fitted(tiny_model, tiny_dataset, 3)  # type: ignore[arg-type]
    with pytest.raises(RunFolderError, match="is empty"):
        evaluate(tiny_model, tiny_dataset, out="")


def test_report_replaces_its_own_pages_alone(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    fitted(tiny_model, tiny_dataset, tmp_path / "run")
    mine = tmp_path / "thesis.html"
    mine.write_text("<html>mine</html>")
    with pytest.raises(RunFolderError, match=r"thesis\.html was not written by this package"):
        report(tmp_path / "run", mine)
    assert mine.read_text() == "<html>mine</html>"
    report(tmp_path / "run", tmp_path / "page.html")
    report(tmp_path / "run", tmp_path / "page.html")


# What has changed since training


def test_changed_model_is_measured_as_it_was_and_changed_data_are_refused(
    recipe: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert did(capsys, "train", str(recipe), "--out=r")[0] == 0
    commands = (
        ["evaluate", "r"],
        ["attack", "r", "--epsilon=0.1"],
        ["certify", "r", "--norm=2", "--epsilons=[0.1]"],
        ["moments", "r"],
        ["check", "r"],
        ["train", str(recipe), "--out=r", "--training.epochs=1"],
    )
    net = recipe.parent / "net.py"
    net.write_text(_NET.replace("nn.ReLU()", "nn.GELU()"))
    status, text = did(capsys, *commands[-1])
    assert (status, "layer network.2: ReLU() then, GELU(" in text) == (2, True), text
    assert did(capsys, *commands[0])[0] == 0  # by the folder's copy
    assert "net.py is not as it was when r was trained" in caplog.text
    net.write_text(_NET.replace("  # a net", "  # the same net"))
    assert did(capsys, "evaluate", "r")[0] == 0

    environment = RunFolder(Path("r")).environment
    noted = json.loads(environment.read_text())
    environment.write_text(json.dumps(noted | {"data_fingerprint": "0" * 64}))
    for command in commands[:4]:
        status, text = did(capsys, *command)
        assert (status, "data digits have changed since r was begun" in text) == (2, True), (command, text)
    status, text = did(capsys, *commands[-1])
    assert (status, "data digits have changed since r was begun" in text) == (2, True)
    caplog.clear()
    assert did(capsys, "evaluate", "r", "--data.root=elsewhere")[0] == 0  # named on purpose
    assert "are not those that r was trained on" in caplog.text


def test_certify_says_that_a_folder_holds_other_weights(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def certified(seed: int) -> tuple[int, str]:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
        torch.save(model.state_dict(), "weights.pt")
        more = ["--data.name=digits", "--norm=2", "--epsilons=[0.1]", "--num_examples=20", "--out=r"]
        return did(capsys, "certify", f"{recipe.parent}/net.py:net", "--weights=weights.pt", *more)

    assert certified(0)[0] == 0
    measured = Path("r/metrics.json").read_bytes()
    status, text = certified(1)
    assert (status, "same model with other weights" in text) == (2, True)
    assert Path("r/metrics.json").read_bytes() == measured
    assert certified(0)[0] == 0


def test_evaluate_says_that_it_replaces_what_was_measured_of_another_model(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate(tiny_model, tiny_dataset, out=tmp_path)
    evaluate(tiny_model, tiny_dataset, [Attacks([PGD(num_steps=1)], [0.1])], out=tmp_path)
    assert not caplog.text
    other = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with caplog.at_level(logging.WARNING):
        evaluate(other, tiny_dataset, out=tmp_path)
    assert "measured of another model, and is replaced" in caplog.text


@pytest.mark.parametrize(
    ("file", "content"),
    [("recipe.yaml", b"\xff\xfe"), ("recipe.yaml", b"{"), ("recipe.yaml", b"nmae: x"), ("best", b"damaged")],
)
def test_damaged_file_of_a_run_is_named_with_a_remedy(
    file: str, content: bytes, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert did(capsys, "train", str(recipe), "--out=r")[0] == 0
    path = Path("r") / ("model.safetensors" if file == "best" else file)
    path.write_bytes(content)
    status, text = did(capsys, "evaluate", "r")
    assert status == 2
    assert str(path) in text
    assert any(remedy in text for remedy in ("train again", "Delete it"))


@pytest.mark.parametrize("lost", ["header", "row"])
def test_report_refuses_rows_that_do_not_fit_the_measurements(
    lost: str, tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    evaluate(tiny_model, tiny_dataset, out=tmp_path)
    examples = tmp_path / "examples.csv"
    lines = examples.read_text().splitlines(keepends=True)
    examples.write_text("".join(lines[1:] if lost == "header" else lines[:-1]))
    with pytest.raises(RunFolderError, match=r"examples\.csv is damaged: it has \d+ rows, but \d+ examples"):
        report(tmp_path)


# Starts that fail, kills, and two at once


def test_start_that_fails_leaves_nothing(tiny_dataset: Dataset, tmp_path: Path) -> None:
    unfit = nn.Sequential(nn.Flatten(), nn.Linear(16, 7))
    with pytest.raises(ModelError):
        fitted(unfit, tiny_dataset, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ModelError):
        fitted(unfit, tiny_dataset, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.parametrize(
    "change",
    ["--training.batch_size=9999 --training.drop_last=true", "--model.options={nosuch: 1}", "--data.size=7"],
)
def test_command_that_fails_at_its_start_leaves_nothing(
    change: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = change.split(" --")
    status, _ = did(
        capsys, "train", str(recipe), "--out=r", options[0], *(f"--{more}" for more in options[1:])
    )
    assert status == 2
    assert not Path("r").exists()


def test_parts_of_killed_processes_are_removed_everywhere(tmp_path: Path) -> None:
    run = RunFolder(tmp_path).create()
    parts = [folder / ".file.1.part" for folder in (run.path, run.checkpoints, run.evaluation)]
    for part in parts:
        part.parent.mkdir(exist_ok=True)
        part.write_text("half")
    with run.held("evaluating"):
        assert not any(part.exists() for part in parts)


def test_second_thread_is_refused(tmp_path: Path) -> None:
    run, errors = RunFolder(tmp_path).create(), []

    def hold() -> None:
        try:
            with run.held("evaluating"):
                pass
        except RunFolderError as error:
            errors.append(str(error))

    with run.held("training"):
        second = threading.Thread(target=hold)
        second.start()
        second.join()
    assert "another thread" in errors[0]
    hold()
    assert len(errors) == 1


def test_file_is_on_disk_before_it_is_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    synchronise, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        events.append("file" if os.path.isfile(f"/proc/self/fd/{descriptor}") else "folder")
        synchronise(descriptor)

    def noted_replace(before: Path, after: Path) -> None:
        events.append("replace")
        replace(before, after)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    with replaced(tmp_path / "x") as temporary:
        temporary.write_text("new")
    assert events == ["file", "replace", "folder"]


@pytest.mark.parametrize("command", [("evaluate",), ("attack", "--epsilon=0.1"), ("check",)])
def test_commands_on_what_was_measured_in_python_say_how_to_go_on(
    command: tuple[str, ...],
    tiny_model: nn.Module,
    tiny_dataset: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    evaluate(tiny_model, tiny_dataset, out=tmp_path / "run")
    status, text = did(capsys, command[0], str(tmp_path / "run"), *command[1:])
    assert status == 2
    assert f"ws.evaluate(model, dataset, out='{tmp_path / 'run'}')" in text
    assert "withstand certify MODEL --weights=FILE" in text  # the folder holds none
    assert not (tmp_path / "run" / "recipe.yaml").exists()
