"""The two files that an evaluation leaves, ``measurements.csv`` and ``metrics.json``; imports no torch."""

from __future__ import annotations

import io
import json

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from withstand.core.run_folder import RunFolder, replaced
from withstand.core.trust import write_signed
from withstand.results.measurements import table_of
from withstand.results.results import SCHEMA, Results
from withstand.types import RunFolderError

_RESULTS = TypeAdapter(Results)
_TEXTS = {"measure": str, "by": str, "norm": str}


def write_results(run: RunFolder, results: Results, table: pd.DataFrame) -> None:
    """Puts both in the place of former ones.

    ``metrics.json`` comes last, since it says that there is a whole evaluation.

    Args:
        run: The run folder.
        results: What is no table.
        table: With the columns of ``measurements.table_of``.

    Raises:
        RunFolderError: the folder cannot be written.
    """
    with replaced(run.measurements) as temporary:
        table.to_csv(temporary, index=False)
    # Not pydantic's JSON, which turns an infinite norm of the settings into null.
    write_signed(run.metrics, json.dumps(_RESULTS.dump_python(results), indent=2) + "\n")


def read_results(run: RunFolder) -> tuple[Results, pd.DataFrame] | None:
    """Both, as an evaluation left them; None where there was none.

    Raises:
        RunFolderError: a file is damaged, or of another version.
    """
    if not run.metrics.exists():
        return None
    return _read_metrics(run), _read_table(run)


def _read_metrics(run: RunFolder) -> Results:
    text = run.text_of(run.metrics)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise run.damaged(run.metrics, f"it is not JSON ({error}).") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise RunFolderError(
            f"{run.metrics} has schema {schema}, but this version reads schema {SCHEMA}. Evaluate the run "
            f"again with this version: withstand evaluate {run.path}"
        )
    try:
        return _RESULTS.validate_json(text, strict=True)
    except ValidationError as error:
        raise run.damaged(run.metrics, first_fault(error)) from error


def first_fault(error: ValidationError) -> str:
    """The key that does not fit, and why, in one sentence."""
    first = error.errors(include_url=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    return f"{place or 'The whole'}: {first['msg'].removeprefix('Value error, ')}."


def _read_table(run: RunFolder) -> pd.DataFrame:
    if not run.measurements.exists():
        raise RunFolderError(
            f"{run.measurements} does not exist, so the figures of {run.metrics.name} are missing. "
            f"Evaluate the run again: withstand evaluate {run.path}"
        )
    try:
        table = pd.read_csv(
            io.StringIO(run.text_of(run.measurements)),
            dtype=_TEXTS,
            keep_default_na=False,
            na_values={name: [""] for name in ("level", "value", "lower", "upper", "correct", "total")},
        )
        return table[list(table_of([]).columns)].astype(table_of([]).dtypes.to_dict())
    except (ValueError, KeyError, TypeError) as error:
        raise run.damaged(run.measurements, f"{error}.") from error
