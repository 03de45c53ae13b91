"""Whether what is certified is consistent with attacks and with itself, example by example.

Pure arithmetic on arrays: what is certified must withstand every attack within its epsilon, and a
certificate that grows with epsilon must not contradict itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from withstand.types import CertificateError

RADIUS_TOLERANCE = 1e-3
"""How far, relative, a certified radius may stay below the largest that can be certified."""

_SAME = 1e-6  # relative: epsilons that are one but for how they were written
_ROUNDING = 1e-9  # of margins in float64
_MARGIN_ROUNDING = 1e-6  # of margins of a point and of a set around it, by different arithmetic
_LISTED = 10


@dataclass(frozen=True)
class CertifiedBatch:
    """What one certificate proves of a batch.

    Args:
        name: Of the certificate.
        norm: Of its balls.
        epsilons: Budgets, ascending.
        certified: Bools (epsilons, batch).
        margins: Lower bounds of the worst margin (epsilons, batch); NaN where they are not known.
        radius: The largest epsilon certified (batch,), 0 where there is none; None where not asked for.
    """

    name: str
    norm: float
    epsilons: Sequence[float]
    certified: NDArray[np.bool_]
    margins: NDArray[np.float64]
    radius: NDArray[np.float64] | None = None

    def closed(self) -> CertifiedBatch:
        """With all that follows: what is proven within an epsilon is proven within any smaller one."""
        certified = np.logical_or.accumulate(self.certified[::-1], axis=0)[::-1]
        if self.radius is None:
            return replace(self, certified=certified)
        budgets = np.array(self.epsilons)[:, None]
        radius = np.maximum(self.radius, np.where(certified, budgets, 0.0).max(axis=0, initial=0.0))
        return replace(self, certified=certified | ((radius >= budgets) & (radius > 0)), radius=radius)

    def without(self, rows: NDArray[np.intp], epsilon: float) -> CertifiedBatch:
        """With some rows not certified at an epsilon and beyond."""
        budgets = np.array(self.epsilons)
        remains = np.ones_like(self.certified)
        remains[np.ix_(budgets >= epsilon * (1 - _SAME), rows)] = False
        certified = self.certified & remains
        if self.radius is None:
            return replace(self, certified=certified)
        radius = self.radius.copy()
        radius[rows] = np.where(certified[:, rows], budgets[:, None], 0.0).max(axis=0, initial=0.0)
        return replace(self, certified=certified, radius=radius)


@dataclass(frozen=True)
class Outcome:
    """What an attack left of a batch.

    Args:
        attack: Its name.
        norm: Of its ball; None for the clean images, which lie in every ball.
        epsilon: Its budget.
        robust: Bools (batch,): the prediction is still correct.
    """

    attack: str
    norm: float | None
    epsilon: float
    robust: NDArray[np.bool_]


class Conflict(NamedTuple):
    """Rows that are certified at an epsilon, yet were broken by an attack within it."""

    epsilon: float
    outcome: Outcome
    rows: NDArray[np.intp]


@dataclass(frozen=True)
class Violation:
    """A contradiction.

    Args:
        certificate: Its name.
        epsilon: At which it is wrong.
        rows: Positions in the batch.
        fault: What is wrong with these rows, as the end of a sentence that names them.
    """

    certificate: str
    epsilon: float
    rows: Sequence[int]
    fault: str


def conflicts(proven: CertifiedBatch, outcomes: Sequence[Outcome]) -> list[Conflict]:
    """Where attacks refute a certificate, each row at the largest epsilon certified of it.

    Args:
        proven: By one certificate.
        outcomes: Of all attacks, of whatever norm, and of the clean images.
    """
    refutations = []
    for outcome in outcomes:
        if outcome.norm not in (None, proven.norm):
            continue
        settled = outcome.robust
        for epsilon, is_certified in _certified_within(proven, outcome.epsilon):
            rows = np.flatnonzero(is_certified & ~settled)
            if len(rows):
                refutations.append(Conflict(epsilon, outcome, rows))
            settled = settled | is_certified
    return refutations


def _certified_within(proven: CertifiedBatch, reached: float) -> Iterator[tuple[float, NDArray[np.bool_]]]:
    """What is certified and can be refuted by an attack of so large a budget, largest epsilon first."""
    for epsilon, certified in zip(proven.epsilons[::-1], proven.certified[::-1], strict=True):
        if reached <= epsilon * (1 + _SAME):
            yield epsilon, certified
    if proven.radius is not None:
        yield reached, (proven.radius >= reached) & (proven.radius > 0)


def contradictions(proven: CertifiedBatch, farthest: float) -> list[Violation]:
    """Where a certificate whose bounds grow with epsilon contradicts itself.

    A margin within rounding of 0, and a radius within its tolerance, contradict nothing.

    Args:
        proven: As computed, before ``CertifiedBatch.closed``.
        farthest: The largest radius that is ever looked for.
    """
    budgets, radius = np.array(proven.epsilons), proven.radius
    candidates = []
    for number, epsilon in enumerate(proven.epsilons):
        is_refused = ~proven.certified[number] & (proven.margins[number] < -_ROUNDING)
        beyond = proven.certified[number + 1 :].any(axis=0)
        candidates.append((epsilon, beyond & is_refused, "not certified there, but at a larger epsilon"))
        if radius is not None:
            reaches = (radius >= epsilon) & (radius > 0) & is_refused
            candidates.append((epsilon, reaches, "not certified there, but have a larger certified radius"))
            short = min(epsilon, farthest) * (1 - 2 * RADIUS_TOLERANCE) - _SAME
            falls_short = proven.certified[number] & (radius < short) & (budgets[number] > 0)
            candidates.append((epsilon, falls_short, "certified there, but have a smaller certified radius"))
    return [
        Violation(proven.name, epsilon, np.flatnonzero(rows).tolist(), fault)
        for epsilon, rows, fault in candidates
        if rows.any()
    ]


class AttackMargins(NamedTuple):
    """What an attack came down to.

    Attributes:
        attack: Its name.
        epsilon: Its budget, in the certificate's norm; 0 for the clean images.
        margins: Of its images, in float64: the true logit minus the best other one (batch,).
    """

    attack: str
    epsilon: float
    margins: NDArray[np.float64]


def overstated(proven: CertifiedBatch, attack_margins: Sequence[AttackMargins]) -> list[Violation]:
    """Where the margin of an image within epsilon is below the bound of all such margins.

    So a bound that is too high is seen even where it decides nothing.

    Args:
        proven: As computed.
        attack_margins: Of attacks in the certificate's norm, and of the clean images.
    """
    violations = []
    for attacked in attack_margins:
        for epsilon, bounds in zip(proven.epsilons, proven.margins, strict=True):
            if attacked.epsilon > epsilon * (1 + _SAME):
                continue
            rows = np.flatnonzero(
                attacked.margins < bounds - _MARGIN_ROUNDING * (1 + np.abs(attacked.margins))
            )
            if len(rows):
                reached = f"{attacked.attack} reaches within epsilon {attacked.epsilon:.6g}"
                fault = f"bounded above the margin that {reached}"
                violations.append(Violation(proven.name, epsilon, rows.tolist(), fault))
    return violations


def require_consistent(violations: Sequence[Violation], first_index: int, rows_file: str) -> None:
    """Accepts a batch in which nothing is contradicted.

    Args:
        violations: The contradictions in the batch.
        first_index: Of the batch's first row.
        rows_file: Where the rows are written, for the error; empty where nowhere.

    Raises:
        CertificateError: something is contradicted; the text names certificate, epsilon and rows.
    """
    if not violations:
        return
    sentences = [_sentence(violation, first_index) for violation in violations[:3]]
    more = f" And {len(violations) - 3} more of the kind." if len(violations) > 3 else ""
    rows = f" All rows up to these are in {rows_file}." if rows_file else ""
    raise CertificateError(
        f"{' '.join(sentences)}{more} A certificate that is wrong once proves nothing, so the evaluation "
        f"stops.{rows} Most likely a rule of withstand.domains.register is not sound, or the model's forward "
        "computes something else each time; any other cause is a defect of this library, to be reported."
    )


def _sentence(violation: Violation, first_index: int) -> str:
    rows = [str(first_index + row) for row in violation.rows]
    more = ", …" if len(rows) > _LISTED else ""
    counted = "1 row is" if len(rows) == 1 else f"{len(rows)} rows are"
    return (
        f"{violation.certificate} at epsilon {violation.epsilon:.6g}: {counted} {violation.fault} "
        f"(index {', '.join(rows[:_LISTED])}{more})."
    )
