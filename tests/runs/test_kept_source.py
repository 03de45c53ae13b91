"""A run folder keeps the source of the model's own file, and is measured by it from anywhere."""

from __future__ import annotations

import importlib.util
import json
import py_compile
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import withstand as ws
from withstand.cli.entry import main
from withstand.core.run_folder import RunFolder
from withstand.models.kept_source import source_of
from withstand.results import read_results
from withstand.runs.loading import load_run
from withstand.training.run_record import digest
from withstand.types import RunFolderError

NET = """
import json
from torch import nn
import parts.last as last
from activation import make_activation

def net(input_shape, num_classes):
    end = last.layer(last.sizes.WIDTH, num_classes)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, last.sizes.WIDTH), make_activation(), end)
"""
FILES = {
    "net.py": NET,
    "activation.py": "from torch import nn\ndef make_activation(): return nn.ReLU()\n",
    "parts/__init__.py": "",
    "parts/last.py": "from torch import nn\nfrom . import sizes\nlayer = nn.Linear\n",
    "parts/sizes.py": "WIDTH = 8\n",
}
RECIPE = """
name: mine
data: {name: digits, train_size: 100}
training: {epochs: 1, accelerator: cpu}
evaluation: {num_examples: 20}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model in several files, which is where the person is."""
    folder = tmp_path / "project"
    for name, text in {**FILES, "mine.yaml": RECIPE, "unused.py": "", "json.py": "raise SystemExit"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.chdir(folder)
    return folder


def did(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    status = main(arguments)
    printed = capsys.readouterr()
    return status, " ".join((printed.out + printed.err).split())


def accuracy(folder: Path) -> float:
    known = read_results(RunFolder(folder))
    assert known is not None
    return float(known[1].value[0])


def test_source_is_a_file_and_all_that_it_imports_beside_it(project: Path) -> None:
    assert set(source_of(project / "net.py")) == set(FILES)
    assert next(iter(source_of(project / "net.py"))) == "net.py"


def test_run_is_measured_from_anywhere_after_its_files_were_changed_or_deleted(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = ["--model.name=./net.py:net", "--out=r"]
    assert main(["run", "mine.yaml", *own]) == 0
    run = project / "r"
    before = accuracy(run)
    copies = (run / "source").rglob("*.py")
    assert {file.relative_to(run / "source").as_posix() for file in copies} == set(FILES)
    monkeypatch.chdir(tmp_path)

    def measured() -> str:
        shutil.rmtree(run / "evaluation")
        (run / "metrics.json").unlink()
        caplog.clear()
        assert main(["evaluate", str(run)]) == 0
        assert accuracy(run) == before
        return caplog.text

    assert not measured()
    (project / "activation.py").write_text("from torch import nn\ndef make_activation(): return nn.GELU()\n")
    sys.modules["activation"] = sys  # what else the person has imported by that name stays
    assert "net.py is not as it was when" in measured()
    assert sys.modules.pop("activation") is sys
    monkeypatch.chdir(project)
    status, text = did(capsys, "train", "mine.yaml", *own)
    assert (status, "ReLU() then, GELU(" in text) == (2, True), text
    monkeypatch.chdir(tmp_path)
    shutil.move(run, tmp_path / "moved")
    shutil.rmtree(project)
    run = tmp_path / "moved"
    assert not measured()
    assert isinstance(load_run(run), nn.Sequential)
    assert main(["check", str(run)]) == 0
    assert main(["train", str(run / "recipe.yaml"), f"--out={run}"]) == 0  # done, by the copy
    assert "training goes on with its copy" in caplog.text


def test_network_of_a_file_made_in_python_keeps_its_source_too(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = ws.data.load("digits", train_size=100)
    model = ws.models.create("net.py:net", dataset=dataset.info)
    settings = ws.training.TrainingSettings(epochs=1, accelerator="cpu")
    result = ws.fit(model, dataset, settings=settings, out=tmp_path / "r")
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(project)
    images = torch.rand(3, 1, 8, 8)
    model.load_state_dict(result.best_weights)
    assert torch.equal(load_run(tmp_path / "r")(images), model.eval()(images))


@pytest.mark.parametrize("change", ["file", "compiled", "added", "manifest"])
def test_source_that_was_changed_in_the_folder_does_not_run(
    change: str, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "mine.yaml", "--model.name=net.py:net", "--out=r"]) == 0
    marker, source = tmp_path / "marker", project / "r" / "source"
    hostile = f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
    if change == "added":  # beside those that were signed, where an import would find it
        (source / "pathlib.py").write_text(hostile)
        (source / "activation").mkdir()
        (source / "activation" / "__init__.py").write_text(hostile)
    elif change == "compiled":
        (tmp_path / "activation.py").write_text(hostile)
        compiled = importlib.util.cache_from_source(str(source / "activation.py"))
        py_compile.compile(
            str(tmp_path / "activation.py"),
            compiled,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    else:
        (source / "activation.py").write_text(hostile)
    if change == "manifest":
        spec = json.loads((project / "r" / "model.json").read_text())
        spec["kept"]["files"]["source/activation.py"] = digest(hostile.encode())
        (project / "r" / "model.json").write_text(json.dumps(spec))
    status, text = did(capsys, "evaluate", "r")
    assert not marker.exists()
    assert status == (0 if change in ("added", "compiled") else 2)
    if change in ("file", "manifest"):
        assert ("not as it was" if change == "file" else "--trust") in text


def test_source_of_a_stranger_runs_by_trust_alone(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "mine.yaml", "--model.name=net.py:net", "--out=r"]) == 0
    monkeypatch.setenv("WITHSTAND_CONFIG", str(tmp_path / "another"))
    assert "--trust" in did(capsys, "check", "r")[1]
    with pytest.raises(Exception, match="--trust"):
        load_run("r")
    with ws.trusting():
        load_run("r")
    assert did(capsys, "check", "r", "--trust")[0] == 0
    assert did(capsys, "check", "r")[0] == 0
    (project / "r" / "source" / "net.py").write_text(NET + "\n")
    with pytest.raises(RunFolderError, match="not as it was"):
        load_run("r")
