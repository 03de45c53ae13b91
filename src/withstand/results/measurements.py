"""The one table of an evaluation's figures, a row a figure: ``measurements.csv``.

Console, report, comparisons and exports are selections of it. This module imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import pandas as pd

from withstand.core.writing import epsilon_text, percent
from withstand.results.shares import Share

CLEAN = "clean accuracy"
ATTACKED = "attacked accuracy"
"""``by`` is the attack, ``level`` epsilon."""
CERTIFIED = "certified accuracy"
"""``by`` is the certificate, ``level`` epsilon."""
MEAN_RADIUS = "mean certified radius"
MEDIAN_RADIUS = "median certified radius"
LARGEST_RADIUS = "largest certified radius"
ROUNDING = "largest rounding of logits"
"""Of the clean images, by the model's own precision; ``by`` is the certificate."""
NOISE_ACCURACY = "accuracy under noise"
"""``by`` is unclipped or clipped, ``level`` noise_std."""
NOISE_AGREEMENT = "agreement under noise"
"""With the answer without noise; otherwise as the accuracy."""
CORRUPTED = "accuracy under corruption"
"""``by`` is the kind, ``level`` the severity."""
SMOOTHED = "accuracy of the smoothed classifier"
ABSTENTION = "abstention of the smoothed classifier"
SMOOTHED_CERTIFIED = "certified accuracy of the smoothed classifier"
"""``level`` is epsilon, in l2."""
MEAN_SMOOTHED_RADIUS = "mean radius of the smoothed classifier"
MEDIAN_SMOOTHED_RADIUS = "median radius of the smoothed classifier"
LARGEST_SMOOTHED_RADIUS = "largest radius of the smoothed classifier"
CALIBRATION_ERROR = "calibration error"
"""``by`` is what the images were: clean."""
VANISHING_GRADIENTS = "vanishing gradients"
"""The share of correctly classified examples at which a loss, ``by``, has no gradient."""
NON_FINITE_GRADIENTS = "gradients that are NaN or infinite"
"""Likewise, at which the gradient of a loss is so at a pixel."""
MOMENTS_ERROR = "mean error of analytic moments"
"""``by`` is the method, ``level`` noise_std; in sampled deviations of the logit."""
MOMENTS_SPEED_UP = "speed-up of analytic moments"
LARGE_EPSILON = "accuracy at an epsilon that allows everything"


def protocol_measure(protocol: str) -> str:
    """What accuracy under a published protocol is called; ``by`` is its attack, or clean."""
    return f"accuracy under protocol {protocol}"


@dataclass(frozen=True)
class Measurement:
    """One figure: a row of ``measurements.csv``.

    Attributes:
        measure: What was measured, in words.
        by: The attack, certificate, corruption or the like; empty where there is none.
        norm: ``inf``, ``2`` or ``1``; empty where there is none.
        level: Epsilon in [0, 1] units, noise_std, or severity; 0 where there is none.
        value: The figure; of a share in [0, 1].
        lower: Of its 95 % interval; None where it has none.
        upper: Likewise.
        correct: Of a share, how many.
        total: Of how many.
    """

    measure: str
    by: str = ""
    norm: str = ""
    level: float = 0.0
    value: float = math.nan
    lower: float | None = None
    upper: float | None = None
    correct: int | None = None
    total: int | None = None


def measured(measure: str, share: Share, *, by: str = "", norm: str = "", level: float = 0.0) -> Measurement:
    """A share as a row of the table."""
    return Measurement(measure, by, norm, level, **vars(share))


_COLUMNS = {column.name: column.type for column in fields(Measurement)}
_KINDS = {"str": "str", "float": "float64", "float | None": "float64", "int | None": "Int64"}


def table_of(measurements: Iterable[Measurement]) -> pd.DataFrame:
    """The measurements as a table with the columns of ``measurements.csv``."""
    table = pd.DataFrame([asdict(measurement) for measurement in measurements], columns=list(_COLUMNS))
    return table.astype({name: _KINDS[str(kind)] for name, kind in _COLUMNS.items()})


def accuracies_text(table: pd.DataFrame) -> str:
    """The accuracies of a table of measurements: ``clean 97.2 %, pgd-20-linf at 0.1 81.0 %``."""
    rows = table[table["measure"].isin([CLEAN, ATTACKED, CERTIFIED])]
    return ", ".join(
        f"{f'{by} at {epsilon_text(float(level))}' if by else 'clean'} {percent(float(value))}"
        for by, level, value in zip(rows["by"], rows["level"], rows["value"], strict=True)
    )


def example_column(measure: str, by: str = "", level: float = 0.0) -> str | None:
    """The column of ``examples.csv`` whose mean a figure is; None where it is the mean of none."""
    if measure in (ATTACKED, CERTIFIED):
        return f"{by}@{level:.6g}"
    return {CLEAN: "clean", NOISE_ACCURACY: "noise-accuracy", CORRUPTED: "corruption-accuracy"}.get(measure)


def radius_column(certificate: str) -> str:
    """The column of ``examples.csv`` with a certificate's radii: ``radius-l2`` for ``certified-l2``."""
    return certificate.replace("certified", "radius", 1)


def rounding_column(certificate: str) -> str:
    """Likewise, with the largest rounding of each example's logits: ``rounding-l2`` for ``certified-l2``."""
    return certificate.replace("certified", "rounding", 1)
