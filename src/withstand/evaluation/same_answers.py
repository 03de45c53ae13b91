"""Whether two sets of answers are those of one model, but for what another device rounds."""

from __future__ import annotations

import numpy as np

from withstand.evaluation.rows import Columns

__all__ = ["differ"]

_MOST_OTHERS = 0.005  # of a batch
_SAME_CONFIDENCE = 0.01


def differ(known: Columns, found: Columns) -> bool:
    """Whether clean answers are another model's.

    Args:
        known: With ``prediction`` and ``confidence``, (batch,) each.
        found: The same of the same images.
    """
    confidences = [each["confidence"].astype(np.float64) for each in (known, found)]
    is_other = known["prediction"] != found["prediction"]
    is_other |= np.abs(confidences[0] - confidences[1]) > _SAME_CONFIDENCE
    return int(is_other.sum()) > 1 + _MOST_OTHERS * len(is_other)
