"""What is always measured: how sure a model is when it is correct, and the accuracy of each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from typing_extensions import override

from withstand.core.answers import NO_ANSWER
from withstand.core.setting_rules import COUNT, settle
from withstand.evaluation.attacking import column, prediction_column
from withstand.evaluation.meter import Gathered, Meter, Needs, Summary
from withstand.results import results
from withstand.results.measurements import CALIBRATION_ERROR, Measurement
from withstand.results.results import Target
from withstand.results.shares import share

CALIBRATION_BINS = 15


class Reliability(NamedTuple):
    """Predictions sorted into bins of confidence of equal width, each open below and closed above.

    Attributes:
        counts: How many in each, int64 (bins,).
        confidence: The sum of their confidences (bins,).
        correct: How many of them are correct (bins,).
    """

    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    correct: NDArray[np.float64]

    @property
    def error(self) -> float:
        """The expected calibration error, in [0, 1].

        Guo et al., "On calibration of modern neural networks" (ICML 2017), eq. 3.
        """
        return float(np.abs(self.confidence - self.correct).sum() / self.counts.sum())


def reliability(
    confidence: NDArray[np.float64], is_correct: NDArray[np.bool_], num_bins: int = CALIBRATION_BINS
) -> Reliability:
    """Confidence beside how often it is deserved.

    Args:
        confidence: The probability of each prediction (examples,), at least one.
        is_correct: Whether it is correct (examples,).
        num_bins: Of the confidence.
    """
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    return Reliability(
        np.bincount(bins, minlength=num_bins).astype(np.int64),
        np.bincount(bins, weights=confidence, minlength=num_bins).astype(np.float64),
        np.bincount(bins, weights=is_correct, minlength=num_bins).astype(np.float64),
    )


@dataclass(frozen=True)
class Calibration(Meter):
    """Confidence beside accuracy on clean images. It is always measured.

    A confidence that is no number counts as 0. Where images were predicted several times, both are of the
    mean prediction.

    Args:
        num_bins: Of the confidence, of equal width.

    Raises:
        ValueError: there is no bin.
    """

    name = "calibration"
    needs = Needs(batches=False)
    num_bins: int = CALIBRATION_BINS

    def __post_init__(self) -> None:
        settle(self, num_bins=COUNT)

    @override
    def summary(self, gathered: Gathered) -> Summary:
        rows, num_bins = gathered.rows, self.num_bins
        confidence = rows["confidence"].fillna(0.0).to_numpy(dtype=np.float64)
        curve = reliability(confidence, (rows["prediction"] == rows["label"]).to_numpy(), num_bins)
        bins = [
            results.Bin(
                lower=place / num_bins,
                upper=(place + 1) / num_bins,
                count=int(count),
                confidence=min(1.0, float(sure / count)) if count else None,
                accuracy=float(correct / count) if count else None,
            )
            for place, (count, sure, correct) in enumerate(zip(*curve, strict=True))
        ]
        error = Measurement(CALIBRATION_ERROR, "clean", value=curve.error)
        return Summary([error], {"calibration": bins})


@dataclass(frozen=True)
class Classes(Meter):
    """Clean, attacked and certified accuracy of each class, and which classes are taken for which.

    Attacked and certified are at the attack and certificate to report first. It is always measured.
    """

    name = "classes"
    needs = Needs(batches=False)

    @override
    def summary(self, gathered: Gathered) -> Summary:
        rows, names = gathered.rows, list(gathered.subject.info.class_names)
        attacked, certified = gathered.headline_attack, gathered.headline_certificate
        draws = gathered.subject.predictor.num_repeats
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
    """How many examples of each class (a row) are predicted as which (a column), of those with an answer."""
    rows = rows[rows[predictions] != NO_ANSWER]
    pairs = rows["label"].to_numpy(dtype=np.int64) * num_classes + rows[predictions].to_numpy(dtype=np.int64)
    counts = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    return [[int(count) for count in row] for row in counts]
