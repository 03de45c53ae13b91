"""Certifies batches, and holds what is certified against every attack on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from withstand import norms
from withstand.attacks import margin
from withstand.certificates import Certifier
from withstand.evaluation.certificate import CertificatePlan, default_attack
from withstand.evaluation.known_answers import require_known_answers
from withstand.evaluation.laws import (
    RADIUS_TOLERANCE,
    Attained,
    Claims,
    Conflict,
    Outcome,
    Violation,
    conflicts,
    contradictions,
    overstated,
)
from withstand.evaluation.rows import CLEAN, AttackPlan, Columns, column
from withstand.run_folder import radius_column
from withstand.types import Batch

__all__ = ["Evidence", "Former", "Proven", "Prover", "margin_column", "outcomes_of", "provers"]

# Of epsilon, so that an image projected to it lies within epsilon whatever float64 rounds.
_INSIDE = 1 - 1e-9

Evidence: TypeAlias = Callable[[Outcome, Tensor], Tensor]
"""(outcome, rows) -> the images (rows, …) by which an attack fooled the model."""


class Proven(NamedTuple):
    """What a certificate gave for one batch.

    Attributes:
        columns: Column name -> array (batch,).
        violations: Laws that it breaks.
        num_withdrawn: Examples that count as not certified, although they are, since the model
            in its own precision is wrong where the exact one is right.
    """

    columns: Columns
    violations: Sequence[Violation]
    num_withdrawn: int


class Former(NamedTuple):
    """What the same certificate gave for a batch before, at other budgets.

    Attributes:
        certified: Epsilon -> bools (batch,).
        radius: Certified radii (batch,), or None.
        margins: Epsilon -> lower bounds of the margin (batch,), where they are known.
    """

    certified: Mapping[float, NDArray[np.bool_]]
    radius: NDArray[np.float64] | None
    margins: Mapping[float, NDArray[np.float64]] = MappingProxyType({})


_NOTHING_BEFORE = Former({}, None)


def outcomes_of(columns: Columns, plans: Sequence[AttackPlan]) -> list[Outcome]:
    """What the columns of a batch say of the clean images and of each attack."""
    found = [Outcome(CLEAN, None, 0.0, columns[CLEAN].astype(bool))]
    for plan in plans:
        for epsilon in plan.epsilons:
            stands = columns[column(plan.name, epsilon)].astype(bool)
            found.append(Outcome(plan.name, plan.norm, epsilon, stands))
    return found


def provers(model: nn.Module, plans: Sequence[CertificatePlan]) -> list[Prover]:
    """One prover a certificate; those of one method share the copy of the model.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes).
        plans: What to prove.

    Raises:
        ModelError: bounds cannot be had for the model.
    """
    certifiers: dict[tuple[str, bool], Certifier] = {}
    found = []
    for plan in plans:
        settings = plan.certificate
        key = (settings.method, settings.clip)
        if key not in certifiers:
            certifiers[key] = Certifier(model, method=settings.method, clip=settings.clip)
        found.append(Prover(plan, certifiers[key]))
    return found


class Prover:
    """Proves one certificate, batch by batch.

    Args:
        plan: What to prove.
        certifier: Of the model.
    """

    def __init__(self, plan: CertificatePlan, certifier: Certifier) -> None:
        self.plan = plan
        self._certifier = certifier

    def at(self, epsilons: Sequence[float], *, radius: bool) -> Prover:
        """The same certificate at other budgets, with the radius or without it."""
        certificate = replace(self.plan.certificate, radius=radius)
        return Prover(CertificatePlan(certificate, epsilons), self._certifier)

    def try_on(self, batch: Batch) -> None:
        """Bounds a batch at the first budget, for the errors that this may raise.

        Raises:
            ModelError: bounds cannot be had for the model.
        """
        norm, epsilon = self.plan.certificate.norm, self.plan.epsilons[0]
        self._certifier.certify(batch.images, batch.labels, norm=norm, epsilon=epsilon)

    def require_known_answers(self, image: Tensor) -> None:
        """Certifies a net of which the truth is known, of images of this shape.

        Raises:
            CertificateError: more is claimed than is true.
        """
        settings = self.plan.certificate

        def certifier_of(net: nn.Module) -> Certifier:
            return Certifier(net, method=settings.method, clip=settings.clip)

        require_known_answers(self.plan.name, settings.norm, certifier_of, image)

    def probe(self, model: nn.Module, batch: Batch) -> list[Attained]:
        """The margins that a short attack reaches at the smallest budget, where bounds are nearest to them.

        For a certificate beside which no attack is run.

        Args:
            model: In eval mode; what to attack.
            batch: Images (batch, …) in [0, 1] and labels (batch,).
        """
        epsilon = min((each for each in self.plan.epsilons if each > 0), default=None)
        if epsilon is None:
            return []
        attack = default_attack(self.plan.certificate.norm).for_evaluation().at(epsilon)
        return [Attained(attack.name, epsilon, self.margins_at(batch, attack(model, *batch), epsilon))]

    def clean_margins(self, batch: Batch) -> Attained:
        """The margins of the clean images."""
        return Attained("the clean image", 0.0, self.margins_at(batch, batch.images, 0.0))

    def prove(
        self,
        batch: Batch,
        outcomes: Sequence[Outcome],
        evidence: Evidence,
        former: Former = _NOTHING_BEFORE,
        attained: Sequence[Attained] = (),
    ) -> Proven:
        """Certifies a batch and checks the laws.

        A violation counts where the exact model too, in float64, is wrong within epsilon; where it
        is right there, rounding alone fooled the model, and the example counts as not certified.

        Args:
            batch: Images (batch, …) in [0, 1] and labels (batch,).
            outcomes: What attacks left of it, the clean images included.
            evidence: Gives the images that fooled the model.
            former: What was proven of it before.
            attained: The margins that attacks in this norm came down to.
        """
        claims = self._claims(batch, former)
        overstatements = overstated(claims, attained)
        violations: list[Violation] = []
        if self.plan.certificate.is_nested:
            violations += contradictions(claims, self._farthest(batch.images))
        claims = claims.closed()
        refuted: set[int] = set()
        unconfirmed: set[int] = set()
        for conflict in conflicts(claims, outcomes):
            is_refuted = self._is_refuted(batch, conflict, evidence)
            if is_refuted.any():
                violations.append(_refuted(claims.name, conflict, conflict.rows[is_refuted]))
            refuted.update(conflict.rows[is_refuted].tolist())
            unconfirmed.update(conflict.rows[~is_refuted].tolist())
        withdrawn = sorted(unconfirmed - refuted)
        for row in withdrawn:
            claims = claims.without(np.array([row]), _fell_at(row, claims.norm, outcomes))
        return Proven(self._columns(claims), [*violations, *overstatements], len(withdrawn))

    def _claims(self, batch: Batch, former: Former) -> Claims:
        settings = self.plan.certificate
        certified = dict(former.certified)
        unknown = np.full(len(batch.labels), math.nan)
        margins = {epsilon: former.margins.get(epsilon, unknown) for epsilon in certified}
        for epsilon in self.plan.epsilons:
            found = self._certifier.certify(batch.images, batch.labels, norm=settings.norm, epsilon=epsilon)
            certified[epsilon] = found.certified.cpu().numpy()
            margins[epsilon] = found.margin.cpu().numpy()
        epsilons = sorted(certified)
        return Claims(
            self.plan.name,
            settings.norm,
            epsilons,
            np.stack([certified[epsilon] for epsilon in epsilons]),
            np.stack([margins[epsilon] for epsilon in epsilons]),
            self._radius(batch) if settings.radius else former.radius,
        )

    def _radius(self, batch: Batch) -> NDArray[np.float64]:
        found = self._certifier.radius(
            batch.images, batch.labels, norm=self.plan.certificate.norm, tolerance=RADIUS_TOLERANCE
        )
        radius: NDArray[np.float64] = found.cpu().numpy()
        return radius

    def _farthest(self, images: Tensor) -> float:
        """No two images in [0, 1] are farther apart, and no radius is looked for beyond."""
        return 1.0 if self.plan.certificate.norm == math.inf else math.sqrt(images[0].numel())

    def margins_at(self, batch: Batch, images: Tensor, epsilon: float) -> NDArray[np.float64]:
        """The margins (batch,), in float64, of images brought to within epsilon of a batch."""
        logits = self._certifier.predict(self._within(batch.images.double(), images, epsilon))
        found: NDArray[np.float64] = _margin(logits, batch.labels).cpu().numpy()
        return found

    def _within(self, clean: Tensor, images: Tensor, epsilon: float) -> Tensor:
        delta = norms.project(images.double() - clean, self.plan.certificate.norm, epsilon * _INSIDE)
        return (clean + delta).clamp(0.0, 1.0)

    def _is_refuted(self, batch: Batch, conflict: Conflict, evidence: Evidence) -> NDArray[np.bool_]:
        """Whether the exact model is wrong within epsilon; a tie is wrong."""
        rows = torch.from_numpy(conflict.rows).to(batch.labels.device)
        clean, labels = batch.images[rows].double(), batch.labels[rows]
        norm = self.plan.certificate.norm
        near = self._within(clean, evidence(conflict.outcome, rows), conflict.epsilon)
        is_right = _margin(self._certifier.predict(near), labels) > 0
        is_inside = norms.norm(near - clean, norm) <= conflict.epsilon
        found: NDArray[np.bool_] = (is_inside & ~is_right).cpu().numpy()
        return found

    def _columns(self, claims: Claims) -> Columns:
        pairs = zip(claims.epsilons, claims.certified, strict=True)
        columns: Columns = {column(claims.name, epsilon): holds.astype(np.int32) for epsilon, holds in pairs}
        columns |= {
            margin_column(claims.name, epsilon): bounds
            for epsilon, bounds in zip(claims.epsilons, claims.margins, strict=True)
        }
        if claims.radius is not None:
            columns[radius_column(claims.name)] = claims.radius
        return columns


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The true logit minus the best other one (batch,)."""
    return 0.0 - margin(logits, labels)  # of a tie 0.0, not -0.0


def margin_column(name: str, epsilon: float) -> str:
    """The column, kept but not shown, of a certificate's bounds of the margin."""
    return f"_margin {column(name, epsilon)}"


def _refuted(name: str, conflict: Conflict, rows: NDArray[np.intp]) -> Violation:
    outcome = conflict.outcome
    fault = (
        "certified but wrong without any attack, in float64 too"
        if outcome.norm is None
        else f"certified but fell to {outcome.attack} within epsilon {outcome.epsilon:.6g}, in float64 too"
    )
    return Violation(name, conflict.epsilon, rows.tolist(), fault)


def _fell_at(row: int, norm: float, outcomes: Sequence[Outcome]) -> float:
    """The smallest budget at which some attack on a norm's ball felled a row."""
    return min(
        outcome.epsilon for outcome in outcomes if outcome.norm in (None, norm) and not outcome.stands[row]
    )
