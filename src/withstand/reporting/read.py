"""Reads a run folder; the only place in the reporting that opens its files."""

from __future__ import annotations

import csv
import io
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from withstand.core.bounded_yaml import require_bounded
from withstand.core.run_folder import RunFolder
from withstand.core.trust import warn_if_changed
from withstand.reporting.images import AttackedValues, Extremes, Gallery, extremes_of, gallery_of
from withstand.results.measurements import CLEAN, radius_column, table_of
from withstand.results.results import Results
from withstand.results.results_file import first_fault, read_results
from withstand.types import RunFolderError

_MUST_BE_NUMBERS = {"epoch", "progress", "seconds", "learning_rate", "loss", "collapsed"}
_RADIUS = radius_column("certified")
_ROUNDING = 1e-9  # of a share, which is written with all its digits
_MOST_BYTES = 2**29  # of a few images, unpacked
_Images = TypeVar("_Images", Gallery | AttackedValues, Extremes)


@dataclass(frozen=True)
class Cost:
    """What a run cost: seconds of wall clock, optimiser steps, bytes."""

    train_seconds: float | None = None
    train_steps: int | None = None
    evaluate_seconds: float | None = None
    certify_seconds: float | None = None
    attack_seconds: float | None = None
    moments_seconds: float | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class Environment:
    """``environment.json``: where, with what and at which cost a run was made."""

    versions: dict[str, str] = field(default_factory=dict)
    platform: str | None = None
    device: str | None = None
    seed: int | None = None
    git_commit: str | None = None
    data_fingerprint: str | None = None
    command: str | None = None
    evaluate_command: str | None = None
    certify_command: str | None = None
    moments_command: str | None = None
    measured_by: list[str] = field(default_factory=list)
    started: str | None = None
    cost: Cost = Cost()
    stopped_early: dict[str, str | int | float] | None = None


@dataclass(frozen=True)
class History:
    """``train.csv``: one entry a row in every column.

    Attributes:
        columns: Name -> numbers; None where the cell is empty, NaN or infinite.
        notes: The text beside each row, empty where there is none.
    """

    columns: Mapping[str, Sequence[float | None]]
    notes: Sequence[str]


@dataclass(frozen=True)
class Run:
    """All that one run folder holds; None for each file that it does not hold.

    ``radii`` are the columns of ``examples.csv`` that hold certified radii, by name. ``table`` holds the
    measurements, in the columns of ``measurements.csv``; it is empty where nothing was evaluated.
    """

    path: Path
    recipe: Mapping[str, object] | None
    recipe_text: str | None
    environment: Environment | None
    history: History | None
    num_rows: int | None
    radii: Mapping[str, Sequence[float]]
    results: Results | None
    table: pd.DataFrame
    gallery: Gallery | AttackedValues | None = None
    extremes: Extremes | None = None


def read_run(path: Path | str) -> Run:
    """Reads a run folder.

    Args:
        path: The folder; at least ``metrics.json`` or ``train.csv`` must be in it.

    Raises:
        RunFolderError: the folder is missing, holds neither file, was evaluated by an older version, or a
            file in it is damaged.
    """
    files = RunFolder.at(path)
    if files.path.is_file():
        raise RunFolderError(
            f"{path} is a file, but a run is a folder. Name the folder that a training wrote."
        )
    if not files.path.is_dir():
        raise RunFolderError(f"There is no run folder {path}. Make one: withstand run RECIPE --out {path}")
    results, table = _read_evaluation(files)
    history = _read_history(files)
    if results is None and history is None:
        raise RunFolderError(
            f"{path} holds neither {files.metrics.name} nor {files.train_log.name}, so there is nothing "
            f"to report. Make them: withstand run RECIPE --out {path}"
        )
    warn_if_changed(files.recipe)
    recipe_text = files.text_of(files.recipe) if files.recipe.exists() else None
    num_rows, radii = _radii(files)
    if results is not None and num_rows not in (None, results.num_examples):
        raise files.damaged(
            files.examples,
            f"it has {num_rows} rows, but {results.num_examples} examples were measured.",
        )
    return Run(
        path=files.path,
        recipe=None if recipe_text is None else _parsed_recipe(recipe_text, files),
        recipe_text=recipe_text,
        environment=_read_environment(files),
        history=history,
        num_rows=num_rows,
        radii=radii,
        results=results,
        table=table,
        gallery=_read_arrays(files, files.gallery, gallery_of),
        extremes=_read_arrays(files, files.extremes, extremes_of),
    )


def _read_evaluation(files: RunFolder) -> tuple[Results | None, pd.DataFrame]:
    """The results and their table; both of nothing where the run was not evaluated."""
    evaluated = read_results(files)
    if evaluated is None:
        return None, table_of([])
    results, table = evaluated
    if not np.isfinite(table[["value", "level"]]).all(axis=None) or np.isinf(table[["lower", "upper"]]).any(
        axis=None
    ):
        raise files.damaged(
            files.measurements, "value, level, lower or upper holds what is no finite number."
        )
    shares = table.value[table.measure.str.contains("accuracy|agreement|abstention")]
    if not shares.between(0, 1).all():
        raise files.damaged(files.measurements, "column value holds an accuracy outside 0 to 1.")
    if fault := _contradiction(table):
        raise files.damaged(files.measurements, fault)
    if not (table.measure == CLEAN).any():
        raise files.damaged(files.measurements, f"it has no row of {CLEAN}.")
    return results, table


def _contradiction(table: pd.DataFrame) -> str | None:
    """The first row whose cells contradict each other, in a sentence; None where none do."""
    value, lower, upper = (table[name] for name in ("value", "lower", "upper"))
    correct, total = (table[name].astype("float64") for name in ("correct", "total"))
    with_total = correct.notna() & (total > 0)
    faults = {
        "value is not correct / total": with_total & ~((value - correct / total).abs() <= _ROUNDING),
        "correct is not between 0 and total": correct.notna() & ~((correct >= 0) & (correct <= total)),
        "value is not between lower and upper": ~(
            (lower.isna() | (lower <= value + _ROUNDING)) & (upper.isna() | (value <= upper + _ROUNDING))
        ),
    }
    for fault, is_faulty in faults.items():
        if is_faulty.any():
            row = int(is_faulty.to_numpy().argmax())
            name = " ".join(str(table[key].iloc[row]) for key in ("measure", "by") if table[key].iloc[row])
            return f"in row {row + 1}, {name}, {fault}."
    return None


def _read_environment(files: RunFolder) -> Environment | None:
    if not files.environment.exists():
        return None
    try:
        return TypeAdapter(Environment).validate_json(files.text_of(files.environment), strict=True)
    except ValidationError as error:
        raise files.damaged(files.environment, first_fault(error)) from error


def _parsed_recipe(text: str, files: RunFolder) -> Mapping[str, object]:
    try:
        require_bounded(text)
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise files.damaged(files.recipe, f"it is not YAML ({error}).") from error
    if not isinstance(value, dict):
        raise files.damaged(files.recipe, "it is not a mapping of keys to values.")
    return value


def _read_cells(files: RunFolder, file: Path) -> dict[str, list[str]] | None:
    """The columns of a CSV table as texts; None where there is no file."""
    if not file.exists():
        return None
    try:
        header, *rows = filter(None, csv.reader(io.StringIO(files.text_of(file), newline=""), strict=True))
    except (csv.Error, ValueError) as error:
        raise files.damaged(file, "it is not a CSV table with a header.") from error
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise files.damaged(file, f"row {number} has {len(row)} cells, the header has {len(header)}.")
    return {name: [row[index] for row in rows] for index, name in enumerate(header)}


def _radii(files: RunFolder) -> tuple[int | None, dict[str, list[float]]]:
    """How many examples there are, and the columns of certified radii.

    A column that a stopped certification left unfinished is passed over.
    """
    cells = _read_cells(files, files.examples)
    if cells is None:
        return None, {}
    radii = {
        name: texts for name, texts in cells.items() if name.startswith(_RADIUS) and all(texts) and texts
    }
    numbers = {name: _numbers(name, texts, files, files.examples) for name, texts in radii.items()}
    for name, column in numbers.items():
        if not all(0 <= value < math.inf for value in column):
            raise files.damaged(files.examples, f"column {name} holds what is no radius.")
    return len(next(iter(cells.values()), [])), numbers


def _read_history(files: RunFolder) -> History | None:
    cells = _read_cells(files, files.train_log)
    if cells is None:
        return None
    if "epoch" not in cells:
        raise files.damaged(files.train_log, "its header has no column epoch.")
    notes = cells.pop("note", [""] * len(cells["epoch"]))
    columns: dict[str, list[float | None]] = {}
    for name, texts in cells.items():
        try:
            numbers = _numbers(
                name, [text if text.strip() else "nan" for text in texts], files, files.train_log
            )
        except RunFolderError:
            if name in _MUST_BE_NUMBERS or name.endswith("accuracy"):
                raise
            continue  # a column of texts, as a later version may add
        columns[name] = [value if math.isfinite(value) else None for value in numbers]
    return History(columns, notes)


def _numbers(name: str, texts: Sequence[str], files: RunFolder, file: Path) -> list[float]:
    try:
        return [float(text) for text in texts]
    except ValueError as error:
        raise files.damaged(file, f"column {name} holds what is no number ({error}).") from error


def _read_arrays(
    files: RunFolder, file: Path, parse: Callable[[dict[str, NDArray[Any]]], _Images]
) -> _Images | None:
    if not file.exists():
        return None
    try:
        with zipfile.ZipFile(file) as members:  # a small file may hold gigabytes of zeros
            size = sum(member.file_size for member in members.infolist())
        if size > _MOST_BYTES:
            raise ValueError(f"it holds {size:,} bytes, and at most {_MOST_BYTES:,} are read")
        with np.load(file, allow_pickle=False) as arrays:
            return parse(dict(arrays))
    except (OSError, ValueError, KeyError, EOFError, TypeError, MemoryError, zipfile.BadZipFile) as error:
        raise files.damaged(file, f"{error}.") from error
