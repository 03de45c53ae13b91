"""Each test example's outcomes: the columns of ``examples.csv`` that a comparison needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from withstand.run_folder import RunFolder
from withstand.types import RunFolderError

__all__ = ["Outcomes", "read_outcomes"]

_INDEX, _LABEL, _PREDICTION, _CLEAN = "index", "label", "prediction", "clean"


@dataclass(frozen=True)
class Outcomes:
    """Some columns of ``examples.csv``, sorted by the examples' index.

    Attributes:
        index: int64 array (examples,): places in the test split, none twice.
        label: int64 array (examples,): true classes.
        columns: Name -> float32 array (examples,): 0 or 1, or the share of repeats; NaN where it is empty.
    """

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    columns: Mapping[str, NDArray[np.float32]]


def read_outcomes(path: Path, wanted: Collection[str]) -> Outcomes | None:
    """Reads those of the wanted columns that a run folder has.

    Args:
        path: The run folder.
        wanted: Names of columns; ``clean`` is also found by comparing predictions with labels.

    Returns:
        The outcomes; None where there is no ``examples.csv``, or it does not say which examples it holds.

    Raises:
        RunFolderError: the file is damaged.
    """
    file = RunFolder(path).examples
    if not file.exists():
        return None
    needed = {_INDEX, _LABEL, _PREDICTION, *wanted}
    try:
        table = pd.read_csv(file, usecols=lambda name: name in needed, dtype=np.float64)
    except (ValueError, OSError) as error:
        raise RunFolderError(
            f"{file} is damaged: {error}. Delete it and run the command that writes it again."
        ) from error
    if not {_INDEX, _LABEL} <= {*table.columns} or table[[_INDEX, _LABEL]].isna().to_numpy().any():
        return None
    table = table.drop_duplicates(_INDEX).sort_values(_INDEX)
    columns = {
        name: table[name].to_numpy(dtype=np.float32, copy=True) for name in wanted if name in table.columns
    }
    if _CLEAN in wanted and _CLEAN not in columns and _PREDICTION in table.columns:
        columns[_CLEAN] = (table[_PREDICTION] == table[_LABEL]).to_numpy(dtype=np.float32)
    return Outcomes(table[_INDEX].to_numpy(dtype=np.int64), table[_LABEL].to_numpy(dtype=np.int64), columns)
