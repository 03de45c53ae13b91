"""Consistency of certificates: contradictions are named, and what follows is certified."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from withstand.certificates.consistency import (
    CertifiedBatch,
    Outcome,
    Violation,
    conflicts,
    contradictions,
    require_consistent,
)
from withstand.types import CertificateError

EPSILONS = (0.1, 0.2, 0.4)


def certificate(
    *rows: Sequence[int], radius: Sequence[float] | None = None, margins: float = -1.0
) -> CertifiedBatch:
    """One example a row, with 1 at each epsilon where it is certified; refused ones by a margin."""
    certified = np.array(rows, dtype=bool).T
    return CertifiedBatch(
        "certified-l2",
        2.0,
        EPSILONS,
        certified,
        np.where(certified, 1.0, margins),
        None if radius is None else np.array(radius),
    )


def outcome(epsilon: float, *robust: int, norm: float | None = 2.0) -> Outcome:
    return Outcome("pgd", norm, epsilon, np.array(robust, dtype=bool))


def test_conflicts_name_a_certified_example_that_is_broken() -> None:
    refuted = conflicts(certificate([1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0]), [outcome(0.2, 0, 1, 0, 0)])
    (conflict,) = refuted
    assert (conflict.epsilon, conflict.rows.tolist()) == (0.2, [0])


def test_conflicts_name_the_largest_certified_epsilon() -> None:
    refuted = conflicts(certificate([1, 1, 1], [1, 1, 0], [1, 0, 0]), [outcome(0.15, 0, 0, 0)])
    assert [(conflict.epsilon, conflict.rows.tolist()) for conflict in refuted] == [(0.4, [0]), (0.2, [1])]


def test_conflicts_ignore_attacks_outside_the_ball() -> None:
    everything = certificate([1, 1, 1])
    assert conflicts(everything, [outcome(0.1, 0, norm=math.inf), outcome(0.5, 0)]) == []


def test_conflicts_count_the_clean_image_in_every_ball() -> None:
    (conflict,) = conflicts(certificate([1, 0, 0]), [outcome(0.0, 0, norm=None)])
    assert conflict.epsilon == 0.1


def test_conflicts_take_epsilons_within_rounding_as_the_same() -> None:
    assert conflicts(certificate([1, 1, 1]), [outcome(0.4 + 1e-8, 0)]) != []


def test_conflicts_count_certified_radii() -> None:
    refuted = conflicts(
        certificate([1, 0, 0], [1, 0, 0], radius=[0.15, 0.12]), [outcome(0.13, 0, 0), outcome(0.5, 0, 0)]
    )
    assert [(conflict.epsilon, conflict.rows.tolist()) for conflict in refuted] == [(0.13, [0])]


def test_contradictions_name_an_example_certified_at_a_larger_epsilon_alone() -> None:
    violations = contradictions(certificate([0, 1, 1], [1, 0, 1], [1, 1, 0]), 4.0)
    assert [(violation.epsilon, list(violation.rows)) for violation in violations] == [(0.1, [0]), (0.2, [1])]
    assert "larger epsilon" in violations[0].fault


def test_contradictions_ignore_rounding_and_unknown_margins() -> None:
    assert contradictions(certificate([0, 1, 1], margins=-1e-12), 4.0) == []
    assert contradictions(certificate([0, 1, 1], margins=math.nan), 4.0) == []


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
def test_contradictions_name_a_radius_that_disagrees_with_what_is_certified(
    row: Sequence[int], radius: float, fault: str | None
) -> None:
    violations = contradictions(certificate(row, radius=[radius]), 4.0)
    assert (violations == []) if fault is None else (fault in violations[0].fault)


def test_contradictions_allow_a_radius_that_ends_at_the_farthest_image() -> None:
    assert contradictions(certificate([1, 1, 1], radius=[0.3]), farthest=0.3) == []
    assert contradictions(certificate([1, 1, 1], radius=[0.3]), farthest=0.5) != []


def test_certified_batch_closed_certifies_all_smaller_epsilons() -> None:
    closed = certificate([0, 1, 0], [0, 0, 0], radius=[0.15, 0.45]).closed()
    assert closed.certified.T.astype(int).tolist() == [[1, 1, 0], [1, 1, 1]]
    assert closed.radius is not None
    assert closed.radius.tolist() == [0.2, 0.45]


ROW = st.lists(st.booleans(), min_size=len(EPSILONS), max_size=len(EPSILONS))


@given(
    st.lists(st.tuples(ROW, st.sampled_from([0.0, 0.05, 0.25, 0.5]), st.booleans()), min_size=1, max_size=8),
    st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.4]),
)
def test_certified_batch_without_the_refuted_rows_has_no_conflict(
    examples: list[tuple[list[bool], float, bool]], reached: float
) -> None:
    rows, radii, robust = zip(*examples, strict=True)
    proven = certificate(*[[int(cell) for cell in row] for row in rows], radius=radii).closed()
    assert (np.diff(proven.certified.astype(int), axis=0) <= 0).all()
    broken = outcome(reached, *map(int, robust), norm=None)
    for conflict in conflicts(proven, [broken]):
        assert not broken.robust[conflict.rows].any()
        proven = proven.without(conflict.rows, reached)
    assert conflicts(proven, [broken]) == []
    assert proven.radius is not None
    for epsilon, certified in zip(proven.epsilons, proven.certified, strict=True):
        assert (certified == ((proven.radius >= epsilon) & (proven.radius > 0))).all()


def test_require_consistent_names_certificate_epsilon_and_the_first_rows() -> None:
    violation = Violation("certified-l2", 0.3, list(range(12)), "certified but broken by pgd")
    with pytest.raises(
        CertificateError, match=r"certified-l2 at epsilon 0\.3: 12 rows are certified but broken"
    ) as error:
        require_consistent([violation], 500, "run/examples.csv")
    text = str(error.value)
    assert "(index 500, 501, 502, 503, 504, 505, 506, 507, 508, 509, …)" in text
    assert "run/examples.csv" in text
    require_consistent([], 0, "")
