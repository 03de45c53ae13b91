"""What befalls each class: its accuracies, and what it is taken for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from typing_extensions import override

from withstand.evaluation.attacking import column, prediction_column
from withstand.evaluation.intervals import share
from withstand.evaluation.meter import Gathered, Meter, Needs, Summary
from withstand.results import results
from withstand.results.results import Target


@dataclass(frozen=True)
class Classes(Meter):
    """Clean, attacked and certified accuracy of each class, and which classes are taken for which.

    Attacked and certified are at the attack and certificate to tell of first. It is always measured.
    """

    name = "classes"
    needs = Needs(batches=False)

    @override
    def summary(self, gathered: Gathered) -> Summary:
        rows, names = gathered.rows, list(gathered.subject.info.class_names)
        attacked, certified = gathered.headline_attack, gathered.headline_certificate
        draws = gathered.subject.judge.num_repeats
        accuracies = [
            results.ClassAccuracy(
                name=names[int(str(label))],
                clean=share(of_class["clean"], draws),
                attacked=None if attacked is None else share(of_class[_column(attacked)], draws),
                certified=None if certified is None else share(of_class[_column(certified)]),
            )
            for label, of_class in rows.groupby("label", sort=True)
        ]
        under_attack = None
        if attacked is not None:
            under_attack = _matrix(rows, prediction_column(attacked.name, attacked.epsilon), len(names))
        confusion = results.Confusion(_matrix(rows, "prediction", len(names)), under_attack)
        return Summary((), {"classes": results.Classes(names, attacked, certified, accuracies, confusion)})


def _column(target: Target) -> str:
    return column(target.name, target.epsilon)


def _matrix(rows: pd.DataFrame, predictions: str, num_classes: int) -> list[list[int]]:
    """How many examples of each class (a row) are predicted as which (a column)."""
    pairs = rows["label"].to_numpy(dtype=np.int64) * num_classes + rows[predictions].to_numpy(dtype=np.int64)
    counts = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    return [[int(count) for count in row] for row in counts]
