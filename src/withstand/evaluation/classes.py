"""What befalls each class: its accuracies, what it is taken for, and the examples at the ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from withstand.data import Split
from withstand.evaluation.rows import CLEAN, column, prediction_column
from withstand.evaluation.summary import share
from withstand.run_folder import radius_column, replaced

__all__ = [
    "Extremes",
    "Telling",
    "class_accuracies",
    "confusion",
    "extremes",
    "save_extremes",
]


class Telling(NamedTuple):
    """The attack or certificate to tell of, at one budget.

    Attributes:
        name: As in ``metrics.json``.
        norm: As there: ``"inf"``, ``"2"``, ``"1"`` or ``"none"``.
        epsilon: In [0, 1] units.
    """

    name: str
    norm: str
    epsilon: float

    @property
    def column(self) -> str:
        """The column that says whether an example stands."""
        return column(self.name, self.epsilon)


class Extremes(NamedTuple):
    """The proven examples with the smallest and the largest radius, by their index in the test split.

    Attributes:
        smallest: Those with the smallest radii above 0, ascending.
        largest: Those with the largest, descending; none of them is in ``smallest``.
    """

    smallest: NDArray[np.int64]
    largest: NDArray[np.int64]


def class_accuracies(
    rows: pd.DataFrame,
    class_names: Sequence[str],
    attacked: Telling | None,
    certified: Telling | None,
    draws: int = 1,
) -> dict[str, Any]:
    """The entry ``classes`` of ``metrics.json``: clean, attacked and certified accuracy of each class.

    Args:
        rows: With ``label``, ``clean`` and the columns that are told of.
        class_names: In label order. A class without an example has no row.
        attacked: The attack and budget, or None.
        certified: The certificate and budget, or None.
        draws: How often each image was predicted.
    """
    found = []
    for label, of_class in rows.groupby("label", sort=True):
        found.append(
            {
                "class": class_names[int(str(label))],
                "clean": share(of_class[CLEAN], draws),
                "attacked": None if attacked is None else share(of_class[attacked.column], draws),
                "certified": None if certified is None else share(of_class[certified.column]),
            }
        )
    return {"attacked": _named(attacked), "certified": _named(certified), "rows": found}


def confusion(rows: pd.DataFrame, class_names: Sequence[str], attacked: Telling | None) -> dict[str, Any]:
    """The entry ``confusion`` of ``metrics.json``: which classes are taken for which, clean and attacked.

    Args:
        rows: With ``label``, ``prediction`` and the column of predictions under the attack.
        class_names: In label order.
        attacked: The attack and budget, or None. Told of as None, too, where rows of a former evaluation have
            no predictions under it.
    """
    told = None
    if attacked is not None and prediction_column(attacked.name, attacked.epsilon) in rows:
        matrix = _matrix(rows, prediction_column(attacked.name, attacked.epsilon), len(class_names))
        told = {**attacked._asdict(), "matrix": matrix}
    return {
        "class_names": list(class_names),
        "clean": _matrix(rows, "prediction", len(class_names)),
        "attacked": told,
    }


def extremes(rows: pd.DataFrame, certificate: str, number: int = 6) -> Extremes:
    """The examples at either end of a certificate's radii.

    Args:
        rows: With ``index`` and the certificate's radii.
        certificate: Its name: ``certified-l2``.
        number: At either end, at most. Where fewer than twice so many are proven, either end has half.
    """
    radii = rows[radius_column(certificate)]
    proven = rows.loc[radii[radii > 0].sort_values(kind="stable").index, "index"].to_numpy(dtype=np.int64)
    smallest, largest = min(number, (len(proven) + 1) // 2), min(number, len(proven) // 2)
    return Extremes(proven[:smallest], proven[::-1][:largest])


def save_extremes(
    path: Path,
    test: Split,
    rows: pd.DataFrame,
    found: Extremes,
    *,
    certificate: str,
    class_names: Sequence[str],
) -> None:
    """Writes their images, labels and radii as ``extremes.npz``.

    Args:
        path: Where to write.
        test: The test split that the rows are of.
        rows: With ``index`` and the certificate's radii.
        found: Which examples.
        certificate: Its name.
        class_names: In label order.

    Raises:
        RunFolderError: the file cannot be written.
    """
    radii = rows.set_index("index")[radius_column(certificate)]
    arrays: dict[str, Any] = {
        "certificate": np.array(certificate),
        "class_names": np.array(list(class_names)),
    }
    for part, index in found._asdict().items():
        chosen = test.subset(index.tolist())
        arrays[f"{part}_images"] = chosen.images.permute(0, 2, 3, 1).cpu().numpy()
        arrays[f"{part}_index"] = index
        arrays[f"{part}_label"] = chosen.labels.cpu().numpy()
        arrays[f"{part}_radius"] = radii.loc[index].to_numpy(dtype=np.float64)
    with replaced(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _named(told: Telling | None) -> dict[str, Any] | None:
    return None if told is None else told._asdict()


def _matrix(rows: pd.DataFrame, predictions: str, num_classes: int) -> list[list[int]]:
    """How many examples of each class (a row) are predicted as which (a column)."""
    pairs = rows["label"].to_numpy(dtype=np.int64) * num_classes + rows[predictions].to_numpy(dtype=np.int64)
    counts = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    return [[int(count) for count in row] for row in counts]
