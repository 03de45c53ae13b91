from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import pytest

import withstand
from withstand.core.run_folder import RunFolder, replaced
from withstand.types import RunFolderError


def _fail_half_way(target: Path, error: Exception) -> None:
    with replaced(target) as temporary:
        temporary.write_text("half")
        raise error


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Replacing in one step


def test_replaced_puts_the_new_file_in_the_place_of_the_old(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with replaced(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
        assert temporary.parent == tmp_path
    assert target.read_text() == "new"
    assert _files(tmp_path) == ["file.txt"]


def test_replaced_leaves_the_old_file_and_no_litter_after_an_error(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError):
        _fail_half_way(target, ZeroDivisionError())
    assert target.read_text() == "old"
    assert _files(tmp_path) == ["file.txt"]


def test_replaced_says_what_to_do_about_a_full_disk(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(RunFolderError, match=r"Cannot write .*file.txt: No space left.*--out.*still there"):
        _fail_half_way(target, OSError(28, "No space left on device"))
    assert target.read_text() == "old"
    assert _files(tmp_path) == ["file.txt"]


def test_replaced_reports_a_parent_that_is_missing_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for parent in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(RunFolderError, match="Cannot write"), replaced(parent / "x") as temporary:
            temporary.write_text("new")


def test_replaced_reports_a_block_that_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="Cannot write"), replaced(tmp_path / "x"):
        pass


def test_replaced_is_not_harmed_by_what_a_killed_process_left(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    for _ in range(2):
        with replaced(target) as temporary:
            assert target.read_text() in ("old", "new")
            temporary.write_text("new")
            leftover = temporary
    leftover.write_text("half, by a process that had the same number")
    with replaced(target) as temporary:
        assert temporary == leftover
        temporary.write_text("newer")
    assert target.read_text() == "newer"
    assert _files(tmp_path) == ["file.txt"]


# The folder


def test_run_folder_gives_every_file_its_own_name(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    paths = [path for name in vars(RunFolder) if isinstance(path := getattr(folder, name), Path)]
    assert sorted(path.name for path in paths) == [
        "checkpoint",
        "environment.json",
        "evaluation",
        "examples.csv",
        "extremes.npz",
        "gallery.npz",
        "last.safetensors",
        "measurements.csv",
        "metrics.json",
        "model.json",
        "model.pt2",
        "model.safetensors",
        "recipe.yaml",
        "report.html",
        "source",
        "train.csv",
    ]
    assert {path.parent for path in paths} == {tmp_path}


def test_run_folder_create_makes_it_and_its_parents_and_may_be_repeated(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "b")
    assert folder.create() is folder
    (folder.path / "kept").write_text("kept")
    folder.create()
    assert _files(folder.path) == [".withstand", "kept"]


def test_run_folder_create_reports_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    for path in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(
            RunFolderError, match=r"Cannot write the run folder .*run.*Choose another with --out"
        ):
            RunFolder(path).create()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_run_folder_create_reports_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunFolderError, match="Permission denied"):
        RunFolder(tmp_path).create()


def test_run_folder_create_reports_a_folder_that_takes_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("withstand.core.run_folder.tempfile.TemporaryFile", refuse)
    with pytest.raises(RunFolderError, match=r"Cannot write the run folder .*: Permission denied"):
        RunFolder(tmp_path).create()


def test_run_folder_require_names_the_command_that_makes_the_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(
        RunFolderError, match=r"metrics.json does not exist. Make it with `withstand evaluate`"
    ):
        folder.require(folder.metrics, "withstand evaluate")
    folder.metrics.write_text("{}")
    assert folder.require(folder.metrics, "withstand evaluate") == folder.metrics


def test_run_folder_json_comes_back_as_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read_json(folder.metrics) == {}
    content = {"a": 1, "b": [0.1, None], "name": "é"}
    folder.write_json(folder.metrics, content)
    assert folder.read_json(folder.metrics) == content
    assert json.loads(folder.metrics.read_text()) == content
    assert _files(tmp_path) == ["metrics.json"]


def test_run_folder_leaves_the_old_file_where_content_is_no_json(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_json(folder.metrics, {"a": 1})
    with pytest.raises(TypeError):
        folder.write_json(folder.metrics, {"a": object()})
    assert folder.read_json(folder.metrics) == {"a": 1}
    assert _files(tmp_path) == ["metrics.json"]


@pytest.mark.parametrize("damaged", [b"{", b"", b"\xff\xfe", b'{"a": }'])
def test_run_folder_reports_damaged_json(tmp_path: Path, damaged: bytes) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_bytes(damaged)
    with pytest.raises(
        RunFolderError, match=r"Cannot read .*metrics.json: .*Delete it and run that stage again"
    ):
        folder.read_json(folder.metrics)


def test_run_folder_reports_json_of_another_kind(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text("[1]")
    with pytest.raises(RunFolderError, match=r"Expected a JSON object in .*metrics.json"):
        folder.read_json(folder.metrics)


def test_run_folder_error_is_an_os_error_too(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="does not exist"):
        RunFolder(tmp_path).require(tmp_path / "x", "y")


# Who holds it

# Of the package it takes this one module, without torch, which takes seconds; it is killed in the end.
HOLDER = """
import sys, types
from pathlib import Path
package = types.ModuleType("withstand")
package.__path__ = [sys.argv[2]]
sys.modules["withstand"] = package
from withstand.core.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).held("training"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def _held_elsewhere(folder: Path) -> Iterator[int]:
    """Another process holds a folder until the block ends; the number of that process."""
    command = [sys.executable, "-c", HOLDER, str(folder), str(Path(withstand.__file__).parent)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process.pid
        finally:
            process.kill()  # which leaves it no time for anything


def test_run_folder_held_by_another_process_is_refused_at_once_and_free_when_that_is_killed(
    tmp_path: Path,
) -> None:
    run = RunFolder(tmp_path).create()
    growing = tmp_path / ".examples.csv.part"
    with _held_elsewhere(tmp_path) as number:
        growing.write_text("half")
        started = time.monotonic()
        message = rf"in use by process {number} on .*, training since 2.*Wait until it is done"
        with pytest.raises(RunFolderError, match=message), run.held("evaluating"):
            pytest.fail("two processes hold it")
        assert time.monotonic() - started < 60  # generous to a busy machine; a wait for the lock has no end
        run.create()
        assert growing.read_text() == "half"  # whoever holds it still needs it
    assert ".holder" in _files(tmp_path)  # of the process that was killed
    with run.held("evaluating"):
        assert not growing.exists()
    assert ".holder" not in _files(tmp_path)


def test_run_folder_held_twice_by_one_process_is_held_until_the_outer_block_ends(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with run.held("training"):
        growing = tmp_path / ".examples.csv.part"
        growing.write_text("half")
        with RunFolder(tmp_path).held("evaluating"):
            pass
        assert growing.exists()
        assert "training since" in (tmp_path / ".holder").read_text()
    assert not (tmp_path / ".holder").exists()


def test_run_folder_is_free_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(ZeroDivisionError), run.held("training"):
        raise ZeroDivisionError
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", _no_space)
        with pytest.raises(RunFolderError, match=r"Cannot write .*: No space left"), run.held("training"):
            pytest.fail("nobody can tell who holds it")
    with _held_elsewhere(tmp_path):
        pass


def _no_space(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_run_folder_without_locks_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(filelock.FileLock, "acquire", fail)
    run = RunFolder(tmp_path)
    with run.held("training"):
        pass
    assert "has no locks" in caplog.text


# Paths, and links that lead out of the folder


@pytest.mark.parametrize(
    "name",
    [
        ".holder",
        ".lock",
        ".withstand",
        "evaluation",
        "checkpoint",
        "metrics.json",
        "trust.json",
        "tensorboard",
    ],
)
def test_run_folder_refuses_a_link_in_place_of_a_file_of_its_own_and_harms_nothing_elsewhere(
    tmp_path: Path, name: str
) -> None:
    elsewhere, run = tmp_path / "mine", RunFolder(tmp_path / "run")
    (elsewhere / "kept").mkdir(parents=True)
    for file in ("about.json", "x.npz", ".x.part", "last.pt"):
        (elsewhere / file).write_text("mine")
    run.path.mkdir()
    for target in (elsewhere, elsewhere / "last.pt", elsewhere / "missing"):
        (run.path / name).symlink_to(target)
        for step in (
            run.create,
            lambda: run.held("training").__enter__(),
            lambda: run.starting("x").__enter__(),
        ):
            with pytest.raises(RunFolderError, match=rf"{name} is a symbolic link.*Remove the link"):
                step()
        assert _files(run.path) == [name]
        (run.path / name).unlink()
    assert _files(elsewhere) == [".x.part", "about.json", "kept", "last.pt", "x.npz"]
    assert (elsewhere / "last.pt").read_text() == "mine"


def test_run_folder_may_be_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with RunFolder(tmp_path / "link").starting("training"):
        pass
    assert ".withstand" in _files(tmp_path / "real")


def test_run_folder_path_begins_at_home_and_is_refused_in_one_line_where_it_cannot_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunFolder.at("~/runs/mine").path == tmp_path / "runs" / "mine"
    for out, words in (
        ("a\nb", "line break"),
        ("runs/" + "x" * 300, "300 bytes long"),
        ("~no-one/x", "home"),
    ):
        with pytest.raises(RunFolderError, match=words) as caught:
            RunFolder.at(out)
        assert "\n" not in str(caught.value)
