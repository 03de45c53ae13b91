"""Confidence beside accuracy, by hand and against the error that its bins have."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from withstand.evaluation.meters import Calibration, reliability
from withstand.results.results import Bin

if TYPE_CHECKING:
    from tests.evaluation.conftest import Gather


def calibration(
    gather: Gather, confidence: list[float], correct: list[bool], num_bins: int = 15
) -> tuple[float, list[Bin]]:
    """The error and the bins."""
    predictions = [2 if is_correct else 1 for is_correct in correct]
    rows = pd.DataFrame({"confidence": confidence, "prediction": predictions, "label": 2, "clean": 0.5})
    (error,), parts = Calibration(num_bins).summary(gather(rows))
    assert (error.measure, error.by) == ("calibration error", "clean")
    assert len(parts["calibration"]) == num_bins
    return error.value, parts["calibration"]


def test_calibration_bins_are_as_counted_by_hand(gather: Gather) -> None:
    error, bins = calibration(gather, [0.55, 0.6, 0.9, 1.0], [True, False, True, True], 5)
    assert error == pytest.approx(0.5 * 0.075 + 0.5 * 0.05)
    assert [part.count for part in bins] == [0, 0, 2, 0, 2]
    assert [part.lower for part in bins] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    assert [part.upper for part in bins] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert [part.confidence for part in (bins[2], bins[4])] == pytest.approx([0.575, 0.95])
    assert [part.accuracy for part in (bins[2], bins[4])] == [0.5, 1.0]
    assert (bins[0].confidence, bins[0].accuracy) == (None, None)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0.01, 1.0), st.booleans()), min_size=1, max_size=40), st.integers(1, 20))
def test_calibration_error_is_that_of_its_bins(
    gather: Gather, examples: list[tuple[float, bool]], num_bins: int
) -> None:
    confidence, correct = (list(column) for column in zip(*examples, strict=True))
    error, bins = calibration(gather, confidence, correct, num_bins)
    assert error == reliability(np.array(confidence), np.array(correct), num_bins).error
    assert sum(part.count for part in bins) == len(examples)
    by_bins = 0.0
    for part in bins:
        if part.count:
            assert part.confidence is not None
            assert part.accuracy is not None
            assert part.lower - 1e-9 <= part.confidence <= part.upper + 1e-9
            by_bins += part.count * abs(part.confidence - part.accuracy)
    assert error == pytest.approx(by_bins / len(examples))


def test_calibration_counts_a_confidence_that_is_no_number_as_0(gather: Gather) -> None:
    error, bins = calibration(gather, [math.nan, 0.95], [True, True])
    assert bins[0] == Bin(0.0, 1 / 15, count=1, confidence=0.0, accuracy=1.0)
    assert error == pytest.approx((1 + 0.05) / 2)


@pytest.mark.parametrize(
    ("confidence", "correct", "num_bins", "error"),
    [
        # Of five bins (0.4, 0.6] has accuracy 1/2 and confidence 0.575, (0.8, 1] 1 and 0.95; each holds half.
        ([0.55, 0.6, 0.9, 1.0], [True, False, True, True], 5, 0.5 * 0.075 + 0.5 * 0.05),
        ([1.0, 1.0], [True, True], 15, 0.0),
        ([1.0, 1.0], [False, False], 15, 1.0),
    ],
)
def test_reliability_error_is_as_computed_by_hand(
    confidence: list[float], correct: list[bool], num_bins: int, error: float
) -> None:
    assert reliability(np.array(confidence), np.array(correct), num_bins).error == pytest.approx(error)


def test_calibration_without_a_bin_is_refused() -> None:
    with pytest.raises(ValueError, match="num_bins of at least 1, but got 0"):
        Calibration(0)
