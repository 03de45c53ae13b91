"""The rows of a benchmark in verification: ``instances.csv`` that says what to do, and ``results.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

from withstand.core.packed import unpacked
from withstand.core.run_folder import replaced
from withstand.types import DataError, RunFolderError

Outcome: TypeAlias = Literal["unsat", "sat", "unknown", "timeout", "error"]
OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)
SOLVED: Final = ("unsat", "sat")


@dataclass(frozen=True)
class Instance:
    """A property to verify of a network.

    Attributes:
        category: Of the benchmark: the name of the folder that its file is in.
        onnx: The network, as its file names it.
        vnnlib: The property, likewise.
        timeout: Seconds.
        folder: Which both names are relative to.
    """

    category: str
    onnx: str
    vnnlib: str
    timeout: float
    folder: Path

    @property
    def files(self) -> tuple[Path, Path]:
        """Network and property; compressed ones where only these are there."""
        onnx, vnnlib = (_there(self.folder / name) for name in (self.onnx, self.vnnlib))
        return onnx, vnnlib


@dataclass(frozen=True)
class InstanceRow:
    """What came of an instance; the first six columns are those of the competitions.

    Attributes:
        category: Of the benchmark.
        onnx: The network, as the file of instances names it.
        vnnlib: The property, likewise.
        prepare_time: Seconds that network and property took to be read.
        result: ``unsat``, ``sat``, ``unknown``, ``timeout`` or ``error``.
        time: Seconds after that.
        timeout: Seconds that it had for both.
        bound: Of the margin by which the property holds; None where there is none.
        num_splits: How often a box, or the network over it, was taken apart.
        message: Of an error, or why the result is unknown.
        key: Of the content of both files, the timeout and this package's code.
    """

    category: str
    onnx: str
    vnnlib: str
    prepare_time: float
    result: Outcome
    time: float
    timeout: float
    bound: float | None = None
    num_splits: int = 0
    message: str = ""
    key: str = ""

    @property
    def is_solved(self) -> bool:
        """Whether there is an answer."""
        return self.result in SOLVED


COLUMNS: Final = tuple(field.name for field in fields(InstanceRow))


def read_instances(file: Path, *, timeout: float | None = None) -> list[Instance]:
    """The instances of a benchmark, a line each: network, property, seconds.

    Args:
        file: Such as ``instances.csv``, which may be ``.gz``; a first line of names is passed over.
        timeout: At most so many seconds an instance; and of those for which the file says none.

    Raises:
        DataError: there is no such file, or a line is none of an instance.
    """
    try:
        text = unpacked(file).decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"There is no file of instances {file}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read the instances {file}: {error}.") from error
    instances = list(_instances(text, file, timeout))
    if not instances:
        raise DataError(f"{file} holds no instances. A line of one is: net.onnx,property.vnnlib,60")
    return instances


def _instances(text: str, file: Path, timeout: float | None) -> Iterator[Instance]:
    folder = file.absolute().parent
    rows = csv.reader(io.StringIO(text), skipinitialspace=True)
    for row in rows:
        cells = [cell.strip() for cell in row]
        if not any(cells) or cells[0].startswith("#"):
            continue
        if rows.line_num == 1 and cells[:2] == ["onnx", "vnnlib"]:
            continue
        where = f"{file}, line {rows.line_num}"
        if len(cells) not in (2, 3) or not all(cells[:2]):
            raise DataError(f"{where}: expected net.onnx,property.vnnlib,seconds, but got {','.join(row)!r}.")
        seconds = _seconds(cells[2], where) if len(cells) == 3 and cells[2] else timeout
        if seconds is None:
            raise DataError(f"{where}: no timeout is given. Add it as third column, or by --timeout=60.")
        allowed = seconds if timeout is None else min(seconds, timeout)
        yield Instance(folder.name, cells[0], cells[1], allowed, folder)


def _seconds(text: str, where: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise DataError(f"{where}: expected seconds above 0 as third column, but got {text!r}.")
    return seconds


def _there(file: Path) -> Path:
    """The file, or the same compressed or not, whichever is there."""
    other = file.with_suffix("") if file.suffix == ".gz" else file.with_name(f"{file.name}.gz")
    return other if other.is_file() and not file.exists() else file


def read_rows(file: Path) -> list[InstanceRow]:
    """The rows of a ``results.csv``; none where there is no such file.

    Raises:
        RunFolderError: it is damaged.
    """
    if not file.exists():
        return []
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            return [_row(row) for row in csv.DictReader(lines, strict=True)]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{file} is damaged ({error!r}). Delete it and run the same command again."
        ) from error


def _row(cells: dict[str, str]) -> InstanceRow:
    read: dict[str, Any] = dict(cells)
    read.update({name: float(cells[name]) for name in ("prepare_time", "time", "timeout")})
    read["bound"] = float(cells["bound"]) if cells["bound"] else None
    read["num_splits"] = int(cells["num_splits"])
    OUTCOMES.index(read["result"])  # another is a ValueError
    return InstanceRow(**read)


def write_rows(file: Path, rows: Sequence[InstanceRow]) -> None:
    """Replaces a ``results.csv``.

    Raises:
        RunFolderError: it cannot be written.
    """
    with replaced(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as lines:
        table = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(row) for row in rows)
