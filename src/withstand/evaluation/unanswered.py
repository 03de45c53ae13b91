"""What is said of images to which a model gives no answer (``core.answers``): none counts in silence."""

from __future__ import annotations

import pandas as pd

from withstand.core.answers import NO_ANSWER

UNANSWERED = "unanswered"
"""What a meter counts of them, by this name."""

_SUFFIX = ":prediction"  # of columns of the class under an attack


def unanswered(number: int, total: int, what: str, consequence: str = "they count as wrong") -> list[str]:
    """The warning, where there is something to say.

    Args:
        number: How many have no answer.
        total: Of how many.
        what: The images, in words.
        consequence: What becomes of them.
    """
    if not number:
        return []
    return [f"No answer: for {number} of {total} {what} the model answers NaN or infinity; {consequence}."]


def unanswered_rows(rows: pd.DataFrame) -> list[str]:
    """The warnings of clean images, and of those that an attack led from an answer to none.

    Args:
        rows: ``examples.csv``.
    """
    none = rows["prediction"] == NO_ANSWER
    warnings = unanswered(int(none.sum()), len(rows), "clean images")
    worst: dict[str, tuple[int, str]] = {}
    for name in rows.columns[rows.columns.str.endswith(_SUFFIX)]:
        attack, _, epsilon = name.removesuffix(_SUFFIX).rpartition("@")
        number = int(((rows[name] == NO_ANSWER) & ~none).sum())
        worst[attack] = max(worst.get(attack, (0, "")), (number, epsilon), key=lambda entry: entry[0])
    for attack, (number, epsilon) in worst.items():
        of = f"images under {attack} at epsilon {epsilon}, that it answers without an attack,"
        warnings += unanswered(number, len(rows) - int(none.sum()), of, "they count as broken")
    return warnings
