"""Run folders below folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from withstand.reporting import find_runs
from withstand.types import RunFolderError


def make(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.json").touch()


def test_find_runs_below_a_folder(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    runs = [sweep / name for name in ("w=2", "w=10", "x/seed=0")]
    make(*runs, runs[0] / "checkpoint", sweep / ".hidden", tmp_path / "other")
    (sweep / "empty").mkdir()
    assert find_runs([sweep]) == runs  # by the numbers in their names
    assert find_runs([runs[2], tmp_path / "other", sweep]) == [runs[2], tmp_path / "other", *runs[:2]]


def test_find_runs_takes_one_that_was_only_trained(tmp_path: Path) -> None:
    (tmp_path / "train.csv").touch()
    assert find_runs([str(tmp_path)]) == [tmp_path]


def test_find_runs_without_any_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no run"):
        find_runs([tmp_path])
    with pytest.raises(RunFolderError, match="There is no folder"):
        find_runs([tmp_path / "absent"])
    (tmp_path / "metrics.txt").touch()
    with pytest.raises(RunFolderError, match=r"metrics\.txt is a file"):
        find_runs([tmp_path / "metrics.txt"])
