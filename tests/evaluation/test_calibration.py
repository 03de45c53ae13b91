"""Confidence beside accuracy, by hand and against the error that is computed of old."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from withstand.evaluation.calibration import calibration
from withstand.evaluation.uncertainty import calibration_error


def table(confidence: list[float], right: list[bool]) -> pd.DataFrame:
    predictions = [2 if each else 1 for each in right]
    return pd.DataFrame({"confidence": confidence, "prediction": predictions, "label": 2, "clean": 0.5})


def test_bins_by_hand() -> None:
    found = calibration(table([0.55, 0.6, 0.9, 1.0], [True, False, True, True]), 5)
    assert found["num_bins"] == 5
    assert found["error"] == pytest.approx(0.5 * 0.075 + 0.5 * 0.05)
    assert [each["count"] for each in found["bins"]] == [0, 0, 2, 0, 2]
    assert [each["lower"] for each in found["bins"]] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    assert [each["upper"] for each in found["bins"]] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    third, last = found["bins"][2], found["bins"][4]
    assert (third["confidence"], third["accuracy"]) == (pytest.approx(0.575), 0.5)
    assert (last["confidence"], last["accuracy"]) == (pytest.approx(0.95), 1.0)
    assert (found["bins"][0]["confidence"], found["bins"][0]["accuracy"]) == (None, None)


@given(st.lists(st.tuples(st.floats(0.01, 1.0), st.booleans()), min_size=1, max_size=40), st.integers(1, 20))
def test_the_error_is_that_of_its_bins(examples: list[tuple[float, bool]], num_bins: int) -> None:
    confidence, right = (list(each) for each in zip(*examples, strict=True))
    found = calibration(table(confidence, right), num_bins)
    assert found["error"] == calibration_error(np.array(confidence), np.array(right), num_bins)
    filled = [each for each in found["bins"] if each["count"]]
    by_bins = sum(each["count"] * abs(each["confidence"] - each["accuracy"]) for each in filled)
    assert found["error"] == pytest.approx(by_bins / len(examples))
    assert sum(each["count"] for each in found["bins"]) == len(examples)
    for each in filled:
        assert each["lower"] - 1e-9 <= each["confidence"] <= each["upper"] + 1e-9


def test_a_confidence_that_is_no_number_counts_as_none() -> None:
    found = calibration(table([math.nan, 0.95], [True, True]))
    assert found["num_bins"] == 15
    assert found["bins"][0] == {"lower": 0.0, "upper": 1 / 15, "count": 1, "confidence": 0.0, "accuracy": 1.0}
    assert found["error"] == pytest.approx((1 + 0.05) / 2)
