"""Recipes and run folders of strangers run no code; those of the person are as easy to use as ever."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import withstand as ws
from withstand.cli.entry import main
from withstand.core import trust
from withstand.recipes.parsing import parse_recipe
from withstand.types import RecipeError, RunFolderError

RECIPE = """
name: small
data: {name: digits, train_size: 60, validation_size: 20}
model: {name: mlp, options: {hidden: [8]}}
training: {epochs: 1, accelerator: cpu}
evaluation: {num_examples: 20}
"""
OURS = """
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from withstand.evaluation.meters import Meter, Needs, Summary
from withstand.reporting.section import Prose, Section
from withstand.results.measurements import Measurement

def make(width=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

def loss(logits, labels) -> torch.Tensor:
    return -logits.gather(1, labels[:, None])[:, 0]

@dataclass(frozen=True)
class Count(Meter):
    needs = Needs(batches=False)
    section = "MODULE:section"

    @property
    def name(self):
        return "count"

    def summary(self, gathered):
        return Summary([Measurement("count", "ours", "", 0.0, 1.0)])

def section(run):
    prose = [Prose("Ours.")]
    return Section(key="ours", title="A section of ours", tab="answers", measures=["count"], prose=prose)
"""


def _of(class_path: str, **settings: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": settings} if settings else {"class_path": class_path}


COMMAND = _of("os.system", command="touch MARKER")
CREATE = _of("withstand.models.create", name="os:system", dataset="digits")
STRANGER = _of("stranger.Class")
# What is named, and the recipe that names it.
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "model": ("os:system", {"model": {"name": "os:system", "options": {"command": "touch MARKER"}}}),
    "model of a module": ("stranger:function", {"model": {"name": "stranger:function"}}),
    "model of a file": ("stranger.py:function", {"model": {"name": "FOLDER/stranger.py:function"}}),
    "data": ("stranger.py:function", {"data": {"name": "FOLDER/stranger.py:function"}}),
    "data of a meter": (
        "stranger:function",
        {"evaluation": {"meters": [_of("Uncertainty", out_of_distribution=["stranger:function"])]}},
    ),
    "option of a model": ("os.system", {"model": {"name": "mlp", "options": {"hidden": COMMAND}}}),
    "optimiser": ("os.system", {"training": {"optimizer": COMMAND}}),
    "optimiser of a function of ours": ("models.create", {"training": {"optimizer": CREATE}}),
    "optimiser as a text": ("stranger.function", {"training": {"optimizer": "stranger.function"}}),
    "schedule": ("stranger.Class", {"training": {"lr_factor": STRANGER}}),
    "augmentation": ("stranger.Class", {"training": {"augment": STRANGER}}),
    "constraint": ("stranger.Class", {"training": {"constraints": [STRANGER]}}),
    "measure": ("stranger.Class", {"training": {"measures": [STRANGER]}}),
    "objective": ("stranger.Class", {"objective": STRANGER}),
    "objective as a text": ("stranger.Class", {"objective": "stranger.Class"}),
    "penalty": ("stranger.Class", {"objective": _of("Weighted", weight=1, term=STRANGER)}),
    "attack": ("stranger.Class", {"objective": _of("Adversarial", attack=STRANGER)}),
    "loss": ("os.system", {"objective": _of("Adversarial", attack=_of("PGD", loss=COMMAND))}),
    "loss of a function of ours": ("models.create", {"training": {"selection": _of("PGD", loss=CREATE)}}),
    "loss by way of ours": (
        "subprocess.run",
        {"training": {"selection": _of("PGD", loss="withstand.core.environment.subprocess.run")}},
    ),
    "meter": ("stranger.Class", {"evaluation": {"meters": [STRANGER]}}),
    "corruption": ("stranger.Class", {"evaluation": {"meters": [_of("Corruptions", kinds=[STRANGER])]}}),
    "model to transfer from": (
        "stranger.Class",
        {
            "evaluation": {
                "meters": [_of("Suite", level="fast", epsilons=[0.1], transfer_from={"a": STRANGER})]
            }
        },
    ),
    "sampling": ("stranger.Class", {"evaluation": {"sampling": STRANGER}}),
    "posterior": ("stranger.Class", {"model": {"bayes": {"posterior": STRANGER}}}),
}


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the person's own code."""
    file = tmp_path_factory.mktemp("ours") / "code_of_ours.py"
    file.write_text(OURS.replace("MODULE", file.stem))
    return file


@pytest.fixture(scope="module")
def made(module: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the person's model and meter in it, to be copied."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "small.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(module.parent)
        own = [f"--model.name={module}:make", "--model.options={}", "--evaluation.meters+=code_of_ours.Count"]
        assert main(["run", str(folder / "small.yaml"), *own, f"--out={folder / 'run'}"]) == 0
    return folder / "run"


@pytest.fixture
def ours(made: Path, module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(module.parent)
    return Path(shutil.copytree(made, tmp_path / "ours"))


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes the recipe of a way; whatever of it runs leaves the file ``marker``."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    touch = f"from pathlib import Path\nPath({str(tmp_path / 'marker')!r}).touch()\n"
    (folder / "stranger.py").write_text(f"{touch}class Class: pass\ndef function(**options): pass\n")
    monkeypatch.syspath_prepend(folder)

    def write(way: str) -> Path:
        text = yaml.safe_dump({**yaml.safe_load(RECIPE), **WAYS[way][1]})
        text = text.replace("MARKER", str(tmp_path / "marker")).replace("FOLDER", str(folder))
        (folder / "recipe.yaml").write_text(text)
        return folder / "recipe.yaml"

    return write


def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, *arguments: str) -> str:
    """The one line of a command that must refuse, with nothing run."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    assert not (tmp_path / "marker").exists()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--trust" in error
    return error


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("command", ["run", "check", "sweep"])
def test_recipe_of_a_stranger_runs_nothing(
    command: str,
    way: str,
    hostile: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = str(hostile(way))
    more = {"run": [f"--out={tmp_path / 'out'}"], "check": [], "sweep": ["--over=seed=0,1"]}[command]
    assert WAYS[way][0] in refused(capsys, tmp_path, command, recipe, *more)


@pytest.mark.parametrize("way", ["model", "optimiser", "loss", "meter", "loss of a function of ours"])
@pytest.mark.parametrize(
    "command", ["train", "evaluate", "attack", "certify --norm=2 --epsilons=[0.1]", "moments", "check"]
)
def test_run_folder_of_a_stranger_runs_nothing(
    command: str,
    way: str,
    hostile: Callable[[str], Path],
    ours: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(hostile(way), ours / "recipe.yaml")
    name, *options = command.split()
    target = [str(ours / "recipe.yaml"), f"--out={ours}"] if name == "train" else [str(ours)]
    error = refused(capsys, tmp_path, name, *target, *options)
    assert WAYS[way][0] in error
    assert "recipe.yaml was changed since withstand wrote it" in error
    assert "Restore the file" not in error


@pytest.mark.parametrize("command", ["report", "compare"])
def test_section_of_a_stranger_does_not_run(
    command: str,
    hostile: Callable[[str], Path],
    ours: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hostile("model")
    metrics = json.loads((ours / "metrics.json").read_text())
    (ours / "metrics.json").write_text(json.dumps({**metrics, "sections": ["stranger:function"]}))
    folders = [str(ours), str(ours.parent)] if command == "compare" else [str(ours)]
    if command == "compare":
        shutil.copytree(ours, tmp_path / "other")
    assert "stranger:function" in refused(
        capsys, tmp_path, command, *folders, f"--out={tmp_path / 'page.html'}"
    )
    with pytest.raises(RunFolderError, match=r"ws\.trusting"):
        ws.report(ours)


def test_meters_that_a_strangers_results_name_do_not_run(
    hostile: Callable[[str], Path], ours: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hostile("model")
    metrics = json.loads((ours / "metrics.json").read_text())
    metrics["settings"]["meters"] = [{"class_path": "stranger.Class"}]
    (ours / "metrics.json").write_text(json.dumps(metrics))
    assert main(["attack", str(ours), "--epsilon=0.1", "--num_steps=1"]) == 0
    assert not (tmp_path / "marker").exists()
    assert re.search(r"left out: .*metrics\.json asks to run .*changed since withstand wrote it", caplog.text)


@pytest.mark.parametrize("key", ["over", "set", "variants", "recipe"])
def test_sweep_of_a_stranger_runs_nothing(
    key: str, hostile: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = hostile("model")
    content: dict[str, Any] = {"recipe": "digits-adversarial", "over": {"seed": [0, 1]}}
    changes: dict[str, dict[str, Any]] = {
        "over": {"over": {"objective": [{"class_path": "stranger.Class"}, "CrossEntropy"]}},
        "set": {"set": {"training.optimizer": "stranger.function"}},
        "variants": {"variants": {"one": {"model.name": "stranger:function"}}},
        "recipe": {"recipe": "recipe.yaml"},
    }
    sweep = recipe.with_name("sweep.yaml")
    sweep.write_text(yaml.safe_dump({**content, **changes[key]}))
    error = refused(capsys, tmp_path, "sweep", str(sweep), f"--out={tmp_path / 'out'}")
    assert ("recipe.yaml" if key == "recipe" else "sweep.yaml") in error


def test_transferring_from_a_strangers_folder_runs_nothing(
    hostile: Callable[[str], Path], ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(ours, tmp_path / "other"))
    shutil.copy(hostile("model"), other / "recipe.yaml")
    suite = [
        "--evaluation.meters+=Suite",
        "--evaluation.meters.level=fast",
        "--evaluation.meters.epsilons=[0.1]",
    ]
    options = [*suite, f"--evaluation.meters.transfer_from=[{other}]"]
    assert "os:system" in refused(capsys, tmp_path, "evaluate", str(ours), *options)


def test_file_named_on_the_command_line_names_no_module(
    hostile: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = hostile("objective")
    monkeypatch.chdir(recipe.parent)
    recipe.rename("stranger.yaml")
    Path("stranger.pt").touch()
    options = ["--training.initial_weights=stranger.pt", "--out=stranger.x"]
    refused(capsys, tmp_path, "run", "stranger.yaml", *options)


def test_own_folder_needs_no_word(ours: Path, tmp_path: Path) -> None:
    moved = str(shutil.move(ours, tmp_path / "moved"))
    for command in (
        ["evaluate", moved],
        ["attack", moved, "--epsilon=0.1", "--num_steps=1", "--loss=code_of_ours.loss"],
        ["attack", moved, "--epsilon=0.1", "--num_steps=2"],
        ["certify", moved, "--norm=2", "--epsilons=[0.1]"],
        ["moments", moved, "--num_examples=2", "--num_samples=10"],
        ["check", moved],
        ["report", moved],
    ):
        assert main(command) == 0, command
    assert "A section of ours" in (Path(moved) / "report.html").read_text()


def test_folder_of_another_person_is_refused(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WITHSTAND_CONFIG", str(tmp_path / "another"))
    assert "code_of_ours.Count" in refused(capsys, tmp_path, "check", str(ours))
    typed = "--evaluation.meters=[code_of_ours.Count]"
    assert "code_of_ours.py:make" in refused(capsys, tmp_path, "check", str(ours), typed)
    assert "code_of_ours:section" in refused(capsys, tmp_path, "report", str(ours))
    with ws.trusting():
        ws.report(ours)
    with pytest.raises(RunFolderError, match="code_of_ours:section"):
        ws.report(ours)
    for command in ("check", "report"):
        assert main([command, str(ours), "--trust"]) == 0
        assert main([command, str(ours)]) == 0  # remembered


def test_own_recipe_is_trusted_until_it_changes(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(module.parent)
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(RECIPE.replace("name: mlp, options: {hidden: [8]}", f"name: '{module}:make'"))
    assert f"{module}:make" in refused(capsys, tmp_path, "check", str(recipe))
    assert main(["check", str(recipe), f"--model.name={module}:make"]) == 0
    assert main(["check", str(recipe), "--model.name", f"{module}:make"]) == 0
    refused(capsys, tmp_path, "check", str(recipe))
    assert main(["check", "--trust", str(recipe)]) == 0
    assert main(["check", str(recipe)]) == 0
    recipe.write_text(recipe.read_text() + "title: another\n")
    refused(capsys, tmp_path, "check", str(recipe))


def test_typed_name_lets_nothing_else_run(
    hostile: Callable[[str], Path], module: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(hostile("loss"))
    typed = ["--model.options={}", f"--model.name={module}:make", "--training.optimizer=torch.optim.SGD"]
    assert "os.system" in refused(capsys, tmp_path, "check", recipe, *typed)


def test_recipe_read_in_python_runs_nothing(hostile: Callable[[str], Path], tmp_path: Path) -> None:
    recipe = hostile("optimiser as a text")
    with pytest.raises(RecipeError, match=r"stranger\.function.*ws\.trusting"):
        parse_recipe(recipe)
    (tmp_path / "own.yaml").write_text(RECIPE)
    assert parse_recipe(tmp_path / "own.yaml").recipe.name == "small"


def test_without_a_place_for_the_key_all_works_and_says_so(
    module: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(module.parent)
    monkeypatch.setenv("WITHSTAND_CONFIG", "/dev/null/nowhere")
    recipe, out = tmp_path / "small.yaml", tmp_path / "run"
    recipe.write_text(RECIPE)
    own = [f"--model.name={module}:make", "--model.options={}", "--evaluation.meters+=code_of_ours.Count"]
    assert main(["run", str(recipe), *own, f"--out={out}"]) == 0
    assert "cannot be recognised as yours, for want of a key" in caplog.text
    trust._passing_key.cache_clear()  # as in another process
    assert "for want of a key" in refused(capsys, tmp_path, "check", str(out))
    assert main(["check", str(out), "--trust"]) == 0


def test_key_is_made_once_and_for_one_person_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WITHSTAND_CONFIG", str(tmp_path / "config"))
    keys: list[bytes] = []
    threads = [threading.Thread(target=lambda: keys.append(trust._stored_key())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1
    assert (tmp_path / "config" / "key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "config" / "key").write_bytes(b"")
    with pytest.raises(OSError, match="key is damaged"):
        trust._stored_key()


def test_file_is_known_after_a_kill_between_its_signature_and_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "recipe.yaml"
    trust.write_signed(file, "one")

    class Killed(BaseException):
        pass

    def kill(*arguments: object, **others: object) -> None:
        raise Killed

    for text in ("two", "three"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", _once(Path.write_text, kill))
            with pytest.raises(Killed):
                trust.write_signed(file, text)
        assert file.read_text() == "one"
        assert trust.is_trusted(file)
    for text in ("four", "five"):
        trust.write_signed(file, text)
        assert trust.is_trusted(file)
    file.write_text("one")
    assert not trust.is_trusted(file)
    (tmp_path / "trust.json").write_text("[")
    assert not trust.is_trusted(file)


def _once(first: Callable[..., object], then: Callable[..., object]) -> Callable[..., object]:
    calls = iter([first])
    return lambda *arguments, **others: next(calls, then)(*arguments, **others)


def test_recipe_that_was_changed_by_hand_is_told_of_where_it_can_be_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WITHSTAND_CONFIG", str(tmp_path / "config"))
    file = tmp_path / "recipe.yaml"
    file.write_text("epochs: 1")
    trust.warn_if_changed(file)  # signed by nobody
    trust.write_signed(file, "epochs: 1")
    trust.warn_if_changed(file)
    assert not caplog.messages
    file.write_text("epochs: 60")
    monkeypatch.setenv("WITHSTAND_CONFIG", str(tmp_path / "none"))  # and so no key
    trust.warn_if_changed(file)
    assert not caplog.messages
    assert not (tmp_path / "none").exists()
    monkeypatch.setenv("WITHSTAND_CONFIG", str(tmp_path / "config"))
    for _ in range(2):
        trust.warn_if_changed(file)
    assert [message for message in caplog.messages if "recipe.yaml was changed since" in message] == [
        *caplog.messages
    ]
    assert len(caplog.messages) == 1


def test_function_of_data_that_is_typed_runs_in_later_commands_too(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    (tmp_path / "stripes.py").write_text(
        "import numpy as np\n\n\ndef load():\n"
        "    labels, light = np.arange(120) % 3, np.linspace(0.5, 1, 120)\n"
        "    return light[:, None, None, None] * np.eye(3)[labels][:, None, None], labels\n"
    )
    name = f"--data.name={tmp_path / 'stripes.py'}:load"
    assert main(["run", str(tmp_path / "small.yaml"), name, f"--out={tmp_path / 'run'}"]) == 0
    assert main(["attack", str(tmp_path / "run"), "--norm=inf", "--epsilon=0.1", "--num_steps=2"]) == 0
    assert (tmp_path / "run" / "measurements.csv").is_file()
