"""Reads a run folder; the only place in the reporting that opens its files."""

from __future__ import annotations

import csv
import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import yaml
from numpy.typing import NDArray

from withstand.reporting.conform import misfit
from withstand.reporting.measures_schema import Confusion
from withstand.reporting.pictures import Extremes, Gallery, extremes_of, gallery_of
from withstand.reporting.schema import METRICS_SCHEMA, Environment, Metrics
from withstand.evaluation.measurements import radius_column
from withstand.run_folder import RunFolder
from withstand.types import RunFolderError

__all__ = ["Extremes", "Gallery", "History", "Run", "read_run"]

_MUST_BE_NUMBERS = {"epoch", "progress", "seconds", "learning_rate", "loss", "collapsed"}
_TEXT_COLUMNS = {"note"}
_RADIUS = radius_column("certified")
_Images = TypeVar("_Images", Gallery, Extremes)


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

    ``radii`` are the columns of ``examples.csv`` that hold certified radii, by name.
    """

    path: Path
    recipe: Mapping[str, object] | None
    recipe_text: str | None
    environment: Environment | None
    history: History | None
    num_rows: int | None
    radii: Mapping[str, Sequence[float]]
    metrics: Metrics | None
    gallery: Gallery | None
    extremes: Extremes | None = None


def read_run(path: Path | str) -> Run:
    """Reads a run folder.

    Args:
        path: The folder; at least ``metrics.json`` or ``train.csv`` must be in it.

    Raises:
        RunFolderError: the folder is missing, holds neither file, or a file in it is damaged.
    """
    files = RunFolder(Path(path))
    if files.path.is_file():
        raise RunFolderError(
            f"{path} is a file, but a run is a folder. Name the folder that a training wrote."
        )
    if not files.path.is_dir():
        raise RunFolderError(f"There is no run folder {path}. Make one: withstand run RECIPE --out {path}")
    metrics = _read_metrics(files.metrics)
    history = _read_history(files.train_log)
    if metrics is None and history is None:
        raise RunFolderError(
            f"{path} holds neither {files.metrics.name} nor {files.train_log.name}, so there is nothing "
            f"to report. Make them: withstand run RECIPE --out {path}"
        )
    recipe_text = _text_of(files.recipe)
    examples = _read_table(files.examples)
    return Run(
        path=files.path,
        recipe=None if recipe_text is None else _parsed_recipe(recipe_text, files.recipe),
        recipe_text=recipe_text,
        environment=cast("Environment | None", _read_json(files.environment, Environment)),
        history=history,
        num_rows=None if examples is None else len(examples[1]),
        radii={} if examples is None else _radii(*examples, files.examples),
        metrics=metrics,
        gallery=_read_arrays(files.gallery, gallery_of),
        extremes=_read_arrays(files.extremes, extremes_of),
    )


def _damaged(file: Path, fault: str) -> RunFolderError:
    return RunFolderError(f"{file} is damaged: {fault} Delete it and run the command that writes it again.")


def _text_of(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise _damaged(file, "it is not UTF-8 text.") from error
    except OSError as error:
        raise RunFolderError(f"{file} cannot be read: {error.strerror}.") from error


def _read_json(file: Path, hint: object) -> object:
    text = _text_of(file)
    if text is None:
        return None
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(file, f"it is not JSON ({error}).") from error
    if fault := misfit(value, hint, ""):
        raise _damaged(file, fault)
    return value


def _read_metrics(file: Path) -> Metrics | None:
    metrics = cast("Metrics | None", _read_json(file, Metrics))
    if metrics is not None and metrics["schema"] != METRICS_SCHEMA:
        raise RunFolderError(
            f"{file} has schema {metrics['schema']}, but this version reads schema {METRICS_SCHEMA}. "
            "Evaluate the run again with this version, or report it with the version that wrote it."
        )
    confusion = metrics.get("confusion") if metrics else None
    if confusion and not _is_square(confusion):
        raise _damaged(file, "confusion must hold a row and a column for each of its class_names.")
    return metrics


def _is_square(confusion: Confusion) -> bool:
    size, attacked = len(confusion["class_names"]), confusion["attacked"]
    matrices = [confusion["clean"], *([attacked["matrix"]] if attacked else [])]
    return all([len(row) for row in matrix] == [size] * size for matrix in matrices)


def _parsed_recipe(text: str, file: Path) -> Mapping[str, object]:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _damaged(file, f"it is not YAML ({error}).") from error
    if not isinstance(value, dict):
        raise _damaged(file, "it is not a mapping of keys to values.")
    return value


def _read_table(file: Path) -> tuple[list[str], list[list[str]]] | None:
    text = _text_of(file)
    if text is None:
        return None
    try:
        header, *rows = filter(None, csv.reader(io.StringIO(text, newline=""), strict=True))
    except (csv.Error, ValueError) as error:
        raise _damaged(file, "it is not a CSV table with a header.") from error
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise _damaged(file, f"row {number} has {len(row)} cells, the header has {len(header)}.")
    return header, rows


def _radii(header: Sequence[str], rows: Sequence[Sequence[str]], file: Path) -> dict[str, list[float]]:
    """The columns of certified radii; without one that a stopped certification left unfinished."""
    found = {}
    for index, name in enumerate(header):
        cells = [row[index] for row in rows]
        if name.startswith(_RADIUS) and cells and all(cells):
            try:
                found[name] = [float(cell) for cell in cells]
            except ValueError as error:
                raise _damaged(file, f"column {name} holds what is no number ({error}).") from error
            if not all(0 <= value < math.inf for value in found[name]):
                raise _damaged(file, f"column {name} holds what is no radius.")
    return found


def _read_history(file: Path) -> History | None:
    table = _read_table(file)
    if table is None:
        return None
    header, rows = table
    if "epoch" not in header:
        raise _damaged(file, "its header has no column epoch.")
    cells = {name: [row[index] for row in rows] for index, name in enumerate(header)}
    notes = cells.get("note", [""] * len(rows))
    numbers = {
        name: _numbers(name, texts, file) for name, texts in cells.items() if name not in _TEXT_COLUMNS
    }
    return History({name: column for name, column in numbers.items() if column is not None}, notes)


def _numbers(name: str, texts: Sequence[str], file: Path) -> list[float | None] | None:
    """The column's numbers; None where it is a column of texts, as a later version may add."""
    try:
        return [_number(text) for text in texts]
    except ValueError as error:
        if name in _MUST_BE_NUMBERS or name.endswith("accuracy"):
            raise _damaged(file, f"column {name} holds what is no number ({error}).") from error
        return None


def _number(text: str) -> float | None:
    if not text.strip():
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _read_arrays(file: Path, parse: Callable[[dict[str, NDArray[Any]]], _Images]) -> _Images | None:
    if not file.exists():
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return parse(dict(arrays))
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise _damaged(file, f"{error}.") from error
