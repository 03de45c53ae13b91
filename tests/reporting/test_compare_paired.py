"""Paired differences: against published examples, by simulation, and by their own laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from withstand.reporting.compare.paired import holm, paired_difference, tango_interval


def test_tango_interval_agrees_with_published_examples() -> None:
    # Fagerland, Lydersen and Laake (2014), Table II: 21 children, 1 before only and 7 after only.
    assert tango_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)
    # Tango (1998), section 6.1: 44 patients, 1 with the standard only; lower end of 90 %.
    assert tango_interval(0, 1, 44, 0.9)[0] == pytest.approx(-0.096, abs=5e-4)


def test_paired_difference_of_correct_and_wrong() -> None:
    first = np.array([1.0, 1, *[0] * 19])
    second = np.array([1.0, 0, *[1] * 7, *[0] * 12])
    difference = paired_difference(first, second)
    assert difference.method == "mcnemar"
    assert difference.value == pytest.approx(-6 / 21)
    assert (difference.lower, difference.upper) == tango_interval(1, 7, 21)
    assert difference.p_value == pytest.approx(2 * (1 + 8) / 2**8)  # of 8 that differ, at most 1 on one side
    assert difference.num_examples == 21


def test_paired_difference_of_shares() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 11, (2, 200)) / 10
    difference = paired_difference(first, second)
    reference = ttest_rel(first, second)
    ends = reference.confidence_interval()
    assert difference.method == "t"
    assert difference.p_value == pytest.approx(reference.pvalue)
    assert (difference.lower, difference.upper) == pytest.approx((ends.low, ends.high))


def test_paired_difference_of_equal_models_is_none() -> None:
    same = np.ones(100)
    difference = paired_difference(same, same)
    assert (difference.value, difference.p_value) == (0, 1)
    assert difference.lower == pytest.approx(-difference.upper)
    assert difference.upper > 0.01  # 100 examples prove nothing equal
    shares = paired_difference(same / 2, same / 2)
    assert (shares.value, shares.lower, shares.upper, shares.p_value) == (0, 0, 0, 1)
    assert paired_difference(same / 2, same / 4).p_value == 0


def test_paired_difference_shows_more_than_two_accuracies() -> None:
    first = np.array([1.0] * 900 + [0.0] * 100)
    second = np.array([1.0] * 880 + [0.0] * 120)
    assert paired_difference(first, second).lower > 0.01  # two separate intervals overlap widely


@pytest.mark.parametrize(("only_first", "only_second"), [(0.05, 0.05), (0.06, 0.02), (0.3, 0.1)])
def test_tango_interval_covers_the_true_difference(only_first: float, only_second: float) -> None:
    rng = np.random.default_rng(1)
    total, trials = 200, 400
    counts = rng.multinomial(total, [only_first, only_second, 1 - only_first - only_second], trials)
    ends = [tango_interval(int(first), int(second), total) for first, second, _ in counts]
    covered = np.mean([lower <= only_first - only_second <= upper for lower, upper in ends])
    assert covered == pytest.approx(0.95, abs=0.03)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 40))
def test_tango_interval_is_antisymmetric_and_around_the_difference(
    only_first: int, only_second: int, others: int
) -> None:
    total = only_first + only_second + others
    lower, upper = tango_interval(only_first, only_second, total)
    assert -1 <= lower <= (only_first - only_second) / total <= upper <= 1
    assert tango_interval(only_second, only_first, total) == pytest.approx((-upper, -lower), abs=1e-9)
    assert (lower > 0) == (only_first - only_second > 1.959964 * math.sqrt(only_first + only_second))


def test_tango_interval_where_all_differ() -> None:
    assert tango_interval(5, 0, 5)[1] == 1
    assert tango_interval(0, 5, 5)[0] == -1


def test_difference_reversed_is_the_other_way_round() -> None:
    first, second = np.array([1.0, 1, 1, 0]), np.array([0.0, 0, 1, 0])
    there, back = paired_difference(first, second), paired_difference(second, first)
    assert there.reversed().value == back.value
    assert (there.reversed().lower, there.reversed().upper) == pytest.approx((back.lower, back.upper))


def test_holm_adjusts_p_values() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("first", "second"),
    [([1.0], [1.0]), ([1.0, 0.0], [1.0]), ([1.0, 2.0], [1.0, 0.0]), ([1, math.nan], [1, 0])],
)
def test_paired_difference_refuses_what_does_not_fit(first: list[float], second: list[float]) -> None:
    with pytest.raises(ValueError, match="Expected"):
        paired_difference(np.array(first, dtype=float), np.array(second, dtype=float))
