"""Consistency of certificates: every contradiction is found, and what follows from a claim is claimed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from withstand.certificates.consistency import (
    Claims,
    Outcome,
    Violation,
    conflicts,
    contradictions,
    require_consistent,
)
from withstand.types import CertificateError

EPSILONS = (0.1, 0.2, 0.4)


def claims(*rows: Sequence[int], radius: Sequence[float] | None = None, margins: float = -1.0) -> Claims:
    """One example a row, with 1 at each epsilon where it is certified; refused ones by a margin."""
    certified = np.array(rows, dtype=bool).T
    return Claims(
        "certified-l2",
        2.0,
        EPSILONS,
        certified,
        np.where(certified, 1.0, margins),
        None if radius is None else np.array(radius),
    )


def outcome(epsilon: float, *robust: int, norm: float | None = 2.0) -> Outcome:
    return Outcome("pgd", norm, epsilon, np.array(robust, dtype=bool))


def test_a_certified_example_that_is_broken_is_in_conflict() -> None:
    found = conflicts(claims([1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0]), [outcome(0.2, 0, 1, 0, 0)])
    (conflict,) = found
    assert (conflict.epsilon, conflict.rows.tolist()) == (0.2, [0])


def test_an_attack_within_a_smaller_ball_refutes_every_larger_claim() -> None:
    found = conflicts(claims([1, 1, 1], [1, 1, 0], [1, 0, 0]), [outcome(0.15, 0, 0, 0)])
    assert [(each.epsilon, each.rows.tolist()) for each in found] == [(0.4, [0]), (0.2, [1])]


def test_other_balls_refute_nothing() -> None:
    everything = claims([1, 1, 1])
    assert conflicts(everything, [outcome(0.1, 0, norm=math.inf), outcome(0.5, 0)]) == []


def test_the_clean_image_lies_in_every_ball() -> None:
    (conflict,) = conflicts(claims([1, 0, 0]), [outcome(0.0, 0, norm=None)])
    assert conflict.epsilon == 0.1


def test_epsilons_are_the_same_however_they_are_written() -> None:
    assert conflicts(claims([1, 1, 1]), [outcome(0.4 + 1e-8, 0)]) != []


def test_a_radius_is_a_claim_too() -> None:
    found = conflicts(
        claims([1, 0, 0], [1, 0, 0], radius=[0.15, 0.12]), [outcome(0.13, 0, 0), outcome(0.5, 0, 0)]
    )
    assert [(each.epsilon, each.rows.tolist()) for each in found] == [(0.13, [0])]


def test_a_larger_epsilon_must_not_be_certified_alone() -> None:
    found = contradictions(claims([0, 1, 1], [1, 0, 1], [1, 1, 0]), 4.0)
    assert [(each.epsilon, list(each.rows)) for each in found] == [(0.1, [0]), (0.2, [1])]
    assert "larger epsilon" in found[0].fault


def test_rounding_and_what_is_not_known_contradict_nothing() -> None:
    assert contradictions(claims([0, 1, 1], margins=-1e-12), 4.0) == []
    assert contradictions(claims([0, 1, 1], margins=math.nan), 4.0) == []


@pytest.mark.parametrize(
    ("row", "radius", "fault"),
    [
        ([1, 1, 0], 0.15, "smaller certified radius"),
        ([1, 0, 0], 0.3, "larger certified radius"),
        ([1, 1, 0], 0.2 * (1 - 1e-3), None),  # within the tolerance of the search
        ([1, 1, 0], 0.3, None),
        ([0, 0, 0], 0.0, None),
    ],
)
def test_a_radius_must_agree_with_what_is_certified(
    row: Sequence[int], radius: float, fault: str | None
) -> None:
    found = contradictions(claims(row, radius=[radius]), 4.0)
    assert (found == []) if fault is None else (fault in found[0].fault)


def test_a_radius_is_not_looked_for_beyond_the_farthest_image() -> None:
    assert contradictions(claims([1, 1, 1], radius=[0.3]), farthest=0.3) == []
    assert contradictions(claims([1, 1, 1], radius=[0.3]), farthest=0.5) != []


def test_what_is_proven_holds_for_all_that_is_smaller() -> None:
    closed = claims([0, 1, 0], [0, 0, 0], radius=[0.15, 0.45]).closed()
    assert closed.certified.T.astype(int).tolist() == [[1, 1, 0], [1, 1, 1]]
    assert closed.radius is not None
    assert closed.radius.tolist() == [0.2, 0.45]


ROW = st.lists(st.booleans(), min_size=len(EPSILONS), max_size=len(EPSILONS))


@given(
    st.lists(st.tuples(ROW, st.sampled_from([0.0, 0.05, 0.25, 0.5]), st.booleans()), min_size=1, max_size=8),
    st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.4]),
)
def test_claims_that_are_withdrawn_leave_no_conflict(
    examples: list[tuple[list[bool], float, bool]], reached: float
) -> None:
    rows, radii, robust = zip(*examples, strict=True)
    made = claims(*[[int(each) for each in row] for row in rows], radius=radii).closed()
    assert (np.diff(made.certified.astype(int), axis=0) <= 0).all()
    broken = outcome(reached, *map(int, robust), norm=None)
    for conflict in conflicts(made, [broken]):
        assert not broken.robust[conflict.rows].any()
        made = made.without(conflict.rows, reached)
    assert conflicts(made, [broken]) == []
    assert made.radius is not None
    for epsilon, certified in zip(made.epsilons, made.certified, strict=True):
        assert (certified == ((made.radius >= epsilon) & (made.radius > 0))).all()


def test_the_error_names_certificate_epsilon_and_the_first_rows() -> None:
    violation = Violation("certified-l2", 0.3, list(range(12)), "certified but broken by pgd")
    with pytest.raises(
        CertificateError, match=r"certified-l2 at epsilon 0\.3: 12 rows are certified but broken"
    ) as error:
        require_consistent([violation], 500, "run/examples.csv")
    text = str(error.value)
    assert "(index 500, 501, 502, 503, 504, 505, 506, 507, 508, 509, …)" in text
    assert "run/examples.csv" in text
    require_consistent([], 0, "")
