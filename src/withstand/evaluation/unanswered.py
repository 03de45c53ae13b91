"""What is said of images to which a model gives no answer (``core.answers``): none counts in silence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from withstand.core.answers import NO_ANSWER

UNANSWERED = "unanswered"
"""A meter's state of this name counts, for each example, the images without an answer."""

_SUFFIX = ":prediction"  # of columns of the class under an attack


def unanswered(
    count: float | NDArray[Any], total: int, what: str, consequence: str = "they count as wrong"
) -> dict[str, list[str]]:
    """The part of a summary that warns, where there is something to say.

    Args:
        count: How many have no answer, or how many of each example.
        total: Of how many in all.
        what: The images, in words.
        consequence: What becomes of them.
    """
    number = int(np.sum(count))
    if not number:
        return {}
    text = f"No answer: for {number} of {total} {what} the model answers NaN or infinity; {consequence}."
    return {"warnings": [text]}


def unanswered_rows(rows: pd.DataFrame) -> list[str]:
    """The warnings of clean images, and of those that an attack led from an answer to none.

    Args:
        rows: ``examples.csv``.
    """
    none = rows["prediction"] == NO_ANSWER
    parts = [unanswered(int(none.sum()), len(rows), "clean images")]
    worst: dict[str, tuple[int, str]] = {}
    for name in rows.columns[rows.columns.str.endswith(_SUFFIX)]:
        attack, _, epsilon = name.removesuffix(_SUFFIX).rpartition("@")
        number = int(((rows[name] == NO_ANSWER) & ~none).sum())
        worst[attack] = max(worst.get(attack, (0, "")), (number, epsilon), key=lambda entry: entry[0])
    for attack, (number, epsilon) in worst.items():
        of = f"images under {attack} at epsilon {epsilon}, that it answers without an attack,"
        parts.append(unanswered(number, len(rows) - int(none.sum()), of, "they count as broken"))
    return [text for part in parts for text in part.get("warnings", [])]
