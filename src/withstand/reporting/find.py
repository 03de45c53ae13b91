"""Finds run folders below folders, and writes what is made of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from withstand.core.run_folder import RunFolder, replaced
from withstand.types import RunFolderError


def find_runs(folders: Sequence[Path | str]) -> list[Path]:
    """The run folders among some folders, and below those that are none themselves, such as a sweep's.

    Args:
        folders: In the order to show them in; below each the order is that of names, numbers in them as
            numbers.

    Returns:
        Each run folder once.

    Raises:
        RunFolderError: a folder does not exist, or there is no run in it.
    """
    runs_by_path: dict[Path, Path] = {}
    for folder in map(Path, folders):
        if folder.is_file():
            raise RunFolderError(f"{folder} is a file. Name run folders, or folders that hold some.")
        if not folder.is_dir():
            raise RunFolderError(f"There is no folder {folder}. Name run folders, or folders that hold some.")
        runs = [folder] if _is_run(folder) else _below(folder)
        if not runs:
            raise RunFolderError(
                f"{folder} holds no run: neither metrics.json nor train.csv is in it or below it. "
                f"Make one: withstand run RECIPE --out {folder}"
            )
        for run in runs:
            runs_by_path.setdefault(run.resolve(), run)
    return list(runs_by_path.values())


def write_text(file: Path, text: str) -> None:
    """Puts a text in its place at once, in a folder that is made where it is not.

    Raises:
        RunFolderError: it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"Cannot make the folder {file.parent}: {error.strerror}.") from error
    with replaced(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _is_run(folder: Path) -> bool:
    files = RunFolder(folder)
    return files.metrics.is_file() or files.train_log.is_file()


def _below(folder: Path) -> list[Path]:
    """A run's own folders, such as that of its checkpoints, hold no other run; links are not followed far."""
    inside = sorted((subfolder for subfolder in folder.iterdir() if subfolder.is_dir()), key=_order)
    return [
        run
        for subfolder in inside
        if not subfolder.name.startswith(".") and (not subfolder.is_symlink() or _is_run(subfolder))
        for run in ([subfolder] if _is_run(subfolder) else _below(subfolder))
    ]


def _order(folder: Path) -> list[tuple[int, float, str]]:
    parts = re.findall(r"\d+(?:\.\d+)?|[^\d]+", folder.name)
    return [(0, float(part), "") if part[0].isdigit() else (1, 0.0, part) for part in parts]
