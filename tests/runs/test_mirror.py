"""Run folders in a store: what is kept there while a copy is worked on, and after whatever ends the work."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import load
from typing_extensions import override

from withstand.cli.entry import main
from withstand.core.run_folder import RunFolder
from withstand.recipes.parsing import find_recipe, parse_recipe
from withstand.runs.mirror import Mirror, working_on
from withstand.runs.sweeping import Result, Trial, attempt
from withstand.training import Observer
from withstand.training.checkpoint import Row
from withstand.types import RunFolderError

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


class Ends(Observer):
    """Ends the work after an epoch, as a killed process does: nothing more is written."""

    @override
    def on_epoch(self, rows: Sequence[Row]) -> None:
        raise SystemExit


@pytest.fixture
def store() -> MemoryFileSystem:
    """One that is no file system, and empty."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    return files


def tried(place: str, *observers: Observer) -> Result:
    recipe = parse_recipe(find_recipe("digits-adversarial"), TINY)
    return attempt(Trial("mine", recipe.text, "withstand run mine", place), observers=observers)


def test_sweep_writes_to_a_store_what_it_writes_to_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", "digits-adversarial", *TINY, "--over=seed=0,1"]
    assert main([*command, f"--out={tmp_path / 'folder'}"]) == 0
    url = f"file://{tmp_path / 'store' / 'sweep'}"
    assert main([*command, f"--out={url}"]) == 0
    assert f"report: {url}/report.html" in capsys.readouterr().out
    folder, store = (
        {
            file.relative_to(out).as_posix(): file
            for file in out.rglob("*")
            if file.is_file() and not file.name.startswith(".")
        }
        for out in (tmp_path / "folder", tmp_path / "store" / "sweep")
    )
    assert set(store) == set(folder)
    assert "seed=1/last.safetensors" in store
    for name in ("seed=1/last.safetensors", "seed=1/measurements.csv"):
        assert store[name].read_bytes() == folder[name].read_bytes()
    assert "/withstand-" not in store["report.html"].read_text().replace(str(tmp_path), "")

    changed = store["seed=0/train.csv"].stat().st_mtime_ns
    assert main([*command, f"--out={url}"]) == 0
    assert capsys.readouterr().out.count("done before") == 2
    assert store["seed=0/train.csv"].stat().st_mtime_ns == changed


def test_training_goes_on_from_the_store_where_its_process_ended(store: MemoryFileSystem) -> None:
    with pytest.raises(SystemExit):
        tried("memory://sweep/mine", Ends())
    assert not store.exists(
        "sweep/mine/checkpoint/last.pt"
    )  # it ended before what the epoch wrote was stored
    with pytest.raises(SystemExit):
        tried("memory://sweep/mine", AfterEpoch(2))
    assert store.exists("sweep/mine/checkpoint/last.pt")
    assert not store.exists("sweep/mine/last.safetensors")
    assert tried("memory://sweep/mine").ended == "done"
    assert tried("memory://sweep/alone").ended == "done"
    ours, alone = (load(store.cat(f"sweep/{name}/last.safetensors")) for name in ("mine", "alone"))
    assert all(ours[name].equal(alone[name]) for name in alone)
    assert tried("memory://sweep/mine").words.endswith("done before")


class AfterEpoch(Observer):
    """Ends the work in the first step of an epoch, from 1."""

    def __init__(self, epoch: int) -> None:
        self._epoch, self._done = epoch, 0

    @override
    def on_step(self, done: int, total: int) -> None:
        if self._done == self._epoch - 1:
            raise SystemExit

    @override
    def on_epoch(self, rows: Sequence[Row]) -> None:
        self._done += 1


@pytest.fixture(params=["local", "below", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store of each kind: a file system, a part of one, and one whose files are written whole."""
    if request.param == "memory":
        request.getfixturevalue("store")
        return "memory://run"
    if request.param == "below":
        below: tuple[Any, str] = DirFileSystem(str(tmp_path), fsspec.filesystem("file")), "run"
        monkeypatch.setattr("withstand.runs.mirror.file_system", lambda url: below)
    return f"file://{tmp_path}/run"


def test_store_holds_what_the_copy_holds(place: str, tmp_path: Path) -> None:
    copies = [Mirror(RunFolder(tmp_path / name), place) for name in ("empty", "copy")]
    copy = copies[1].run.path
    (copy / "checkpoint").mkdir(parents=True)
    (copy / "metrics.json").write_text("{}")
    (copy / "checkpoint/last.pt").write_text("one")
    (copy / ".lock").touch()
    (copy / ".metrics.json.1.part").touch()
    copies[1].store()
    (copy / "metrics.json").unlink()
    (copy / "checkpoint/last.pt").write_text("another")
    copies[1].store()

    again = Mirror(RunFolder(tmp_path / "again"), place)
    assert list(again.run.path.rglob("*")) == []  # nothing small is left
    again.fetch_rest()
    files = {file.name: file.read_text() for file in again.run.path.rglob("*") if file.is_file()}
    assert files == {"last.pt": "another"}


def test_file_of_a_store_stays_whole_where_writing_fails(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Mirror(RunFolder(tmp_path / "first"), place)
    first.run.path.mkdir()
    (first.run.path / "train.csv").write_text("whole")
    first.store()
    second = Mirror(RunFolder(tmp_path / "second"), place)
    (second.run.path / "train.csv").write_text("a longer text")

    def partly(local: str, there: str) -> None:
        second._files.pipe_file(there, b"a lon")
        raise OSError("the network is gone")

    with monkeypatch.context() as patch:
        patch.setattr(second._files, "put_file", partly)
        with pytest.raises(RunFolderError, match="network is gone"):
            second.store()
    assert (Mirror(RunFolder(tmp_path / "third"), place).run.path / "train.csv").read_text() == "whole"


@pytest.mark.parametrize(
    ("url", "message"),
    [("s3://bucket/sweep", "needs another package: Install s3fs"), ("nosuch://sweep", "nosuch")],
)
def test_store_that_cannot_be_reached_is_one_line(
    url: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(RunFolderError, match=message), working_on(url):
        pass


@pytest.mark.parametrize(
    "command",
    [
        ["run", "digits-adversarial", "--out=s3://bucket/run"],
        ["train", "digits-adversarial", "--out", "file:///run"],
        ["compare", "s3://bucket/sweep"],
        ["report", "runs/one", "s3://bucket/sweep"],
        ["evaluate", "s3://bucket/sweep"],
    ],
)
def test_command_that_takes_no_url_makes_no_folder_of_one(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    assert "is a URL" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())
