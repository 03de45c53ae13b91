"""Certifies batches, and holds what is certified against every attack on them.

What an attack left counts by the images that fooled the model, which are stored or made again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from withstand.attacks import margin
from withstand.certificates import Certification, Certifier, consistency
from withstand.certificates.consistency import AttackMargins, CertifiedBatch, Conflict, Outcome, Violation
from withstand.certificates.self_test import require_known_answers
from withstand.core import norms
from withstand.core.identity import identity
from withstand.evaluation.attacking import Scores, column
from withstand.evaluation.meter import PartResult
from withstand.evaluation.plans import AttackPlan, CertificatePlan, default_attack
from withstand.evaluation.predictor import Predictor
from withstand.evaluation.store import BatchStore
from withstand.graph.rule_registry import rules_of_others
from withstand.results.measurements import radius_column, rounding_column
from withstand.types import Batch

# Of epsilon, so that an image projected to it lies within epsilon whatever float64 rounds.
_INSIDE = 1 - 1e-9
MARGIN, PRECISION, WITHDRAWN, SECONDS = "margin", "precision", "withdrawn", "seconds"
_RADIUS, _ROUNDING = "radius", "rounding"


def outcomes_of(clean: NDArray[np.bool_], scores: Scores, plans: Sequence[AttackPlan]) -> list[Outcome]:
    """What the clean images and each attack left of a batch."""
    outcomes = [Outcome("clean", None, 0.0, clean)]
    for plan in plans:
        for epsilon in plan.epsilons:
            robust = scores.results[plan.target(epsilon)].columns[column(plan.name, epsilon)]
            outcomes.append(Outcome(plan.name, plan.norm, epsilon, robust.astype(bool)))
    return outcomes


def provers(model: nn.Module, plans: Sequence[CertificatePlan]) -> list[Prover]:
    """One prover a certificate; those of one method share the copy of the model.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes).
        plans: What to prove.

    Raises:
        ModelError: bounds cannot be had for the model.
    """
    certifiers: dict[tuple[str, bool, float], Certifier] = {}
    result = []
    for plan in plans:
        key = (plan.method, plan.clip, plan.timeout)
        if key not in certifiers:
            certifiers[key] = Certifier(model, method=plan.method, clip=plan.clip, timeout=plan.timeout)
        result.append(Prover(plan, certifiers[key]))
    return result


class Prover:
    """Proves one certificate, batch by batch.

    Args:
        plan: What to prove.
        certifier: Of the model.
    """

    def __init__(self, plan: CertificatePlan, certifier: Certifier) -> None:
        self.plan = plan
        self.left_out = ""
        """What ``"best"`` does not try of such a model, in words; known once a batch was tried on."""
        self._certifier = certifier

    def try_on(self, batch: Batch) -> None:
        """Bounds a batch at the first budget, for the errors that this may raise.

        Raises:
            ModelError: bounds cannot be had for the model.
        """
        norm, epsilon = self.plan.norm, self.plan.epsilons[0]
        self._certifier.certify(batch.images, batch.labels, norm=norm, epsilon=epsilon)
        self.left_out = self._certifier.left_out

    def require_known_answers(self, image: Tensor) -> None:
        """Certifies a net of which the truth is known, of images of this shape.

        Raises:
            CertificateError: more is certified than is true.
        """
        plan = self.plan

        def certifier_of(net: nn.Module) -> Certifier:
            return Certifier(net, method=plan.method, clip=plan.clip, timeout=plan.timeout)

        require_known_answers(plan.name, plan.norm, certifier_of, image)

    def probe(self, model: nn.Module, batch: Batch) -> list[AttackMargins]:
        """The margins that a short attack reaches at the smallest budget, where bounds are nearest to them.

        For a certificate beside which no attack is run.

        Args:
            model: In eval mode; what to attack.
            batch: Images (batch, …) in [0, 1] and labels (batch,).
        """
        epsilon = min((epsilon for epsilon in self.plan.epsilons if epsilon > 0), default=None)
        if epsilon is None:
            return []
        attack = default_attack(self.plan.norm).for_evaluation().at(epsilon)
        return [AttackMargins(attack.name, epsilon, self.margins_at(batch, attack(model, *batch), epsilon))]

    def clean_margins(self, batch: Batch) -> AttackMargins:
        """The margins of the clean images."""
        return AttackMargins("the clean image", 0.0, self.margins_at(batch, batch.images, 0.0))

    def prove(
        self,
        batch: Batch,
        outcomes: Sequence[Outcome],
        evidence: Evidence,
        attack_margins: Sequence[AttackMargins],
        store: BatchStore,
    ) -> tuple[PartResult, Sequence[Violation]]:
        """Certifies a batch and holds it against attacks and against itself.

        A violation counts where the float64 copy, too, is wrong within epsilon; where it is correct
        there, rounding alone fooled the model, and the example is withdrawn: it counts as not certified. So
        does one that is wrong without an attack in the model's own precision.
        Nothing that contradicts anything is stored.

        Args:
            batch: Images (batch, …) in [0, 1] and labels (batch,).
            outcomes: What attacks left of it, the clean images included.
            evidence: Gives the images that fooled the model.
            attack_margins: The margins that attacks in this norm came down to.
            store: What is known of the batch; takes up the results.
        """
        started = time.perf_counter()
        proven = self._proven(batch, store)
        seconds = self._seconds(time.perf_counter() - started, len(batch.labels), store)
        overstatements = consistency.overstated(proven, attack_margins)
        violations: list[Violation] = []
        if self.plan.is_nested:
            # No two images in [0, 1] are farther apart, and no radius is looked for beyond.
            farthest = norms.diameter(self.plan.norm, batch.images[0].numel())
            violations += consistency.contradictions(proven, farthest)
        proven = proven.closed()
        refuted: set[int] = set()
        unconfirmed: set[int] = set()
        for conflict in consistency.conflicts(proven, outcomes):
            is_refuted = self._is_refuted(batch, conflict, evidence)
            if is_refuted.any():
                violations.append(_refuted(proven.name, conflict, conflict.rows[is_refuted]))
            refuted.update(conflict.rows[is_refuted].tolist())
            unconfirmed.update(conflict.rows[~is_refuted].tolist())
        withdrawn = sorted(unconfirmed - refuted)
        for row in withdrawn:
            proven = proven.without(np.array([row]), _broken_at(row, proven.norm, outcomes))
        violations += overstatements
        # Those, too, that the model gives another label without an attack, in its own precision.
        is_wrong = np.any((proven.margins > 0) & ~proven.certified, axis=0)
        rows = {*withdrawn, *np.flatnonzero(is_wrong).tolist()}
        before = store.find(self._key(WITHDRAWN))  # may count some whose radius alone is withdrawn
        num_before = 0 if before is None else int(before.counts[WITHDRAWN][0])
        num_withdrawn = max(len(rows), num_before)
        parts = self._parts(proven) | {
            WITHDRAWN: PartResult({}, {WITHDRAWN: np.array([num_withdrawn])}),
            SECONDS: seconds,
        }
        if not violations:
            for part, result in parts.items():
                store.put(self._key(part), result)
        rounding = self._rounding(batch, store)
        every = [*parts.values(), rounding]
        columns = {name: values for result in every for name, values in result.columns.items()}
        # What bounds the margin within an epsilon bounds it within any smaller one.
        margins = np.maximum.accumulate(proven.margins[::-1], axis=0)[::-1].T
        return PartResult(
            columns, parts[WITHDRAWN].counts, rounding.state | seconds.state | {MARGIN: margins}
        ), violations

    def _proven(self, batch: Batch, store: BatchStore) -> CertifiedBatch:
        """What is stored, and bounds computed now where nothing is."""
        plan = self.plan
        certified, margins = zip(*(self._at(epsilon, batch, store) for epsilon in plan.epsilons), strict=True)
        radius = store.find(self._key(_RADIUS)) if plan.radius else None
        radii = None if radius is None else radius.columns[radius_column(plan.name)].astype(np.float64)
        if plan.radius and radii is None:
            radii = self._radius(batch)
        return CertifiedBatch(
            plan.name, plan.norm, plan.epsilons, np.stack(certified), np.stack(margins), radii
        )

    def _seconds(self, spent: float, count: int, store: BatchStore) -> PartResult:
        """What each example took, now and before."""
        known = store.find(self._key(SECONDS))
        before = 0.0 if known is None else known.state[SECONDS]
        return PartResult({}, {}, {SECONDS: before + np.full(count, spent / max(1, count))})

    def _at(
        self, epsilon: float, batch: Batch, store: BatchStore
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Whether examples are certified at a budget, and lower bounds of their margins."""
        plan = self.plan
        if known := store.find(self._key(f"{epsilon:.6g}")):
            certified = known.columns[column(plan.name, epsilon)].astype(bool)
            return certified, known.state[MARGIN].astype(np.float64)
        certification = self._certifier.certify(batch.images, batch.labels, norm=plan.norm, epsilon=epsilon)
        store.put(self._key(_ROUNDING), self._rounding_of(certification))
        return certification.certified.cpu().numpy(), certification.margin.cpu().numpy()

    def _rounding(self, batch: Batch, store: BatchStore) -> PartResult:
        """By how much the model's own precision changes logits; results of older versions do not hold it."""
        known = store.find(self._key(_ROUNDING))
        if known is None:
            images, labels = batch
            known = self._rounding_of(
                self._certifier.certify(images, labels, norm=self.plan.norm, epsilon=0.0)
            )
            store.put(self._key(_ROUNDING), known)
        return known

    def _rounding_of(self, certification: Certification) -> PartResult:
        rounding = certification.rounding.cpu().numpy()
        precision = np.full(len(rounding), certification.precision)
        return PartResult({rounding_column(self.plan.name): rounding}, {}, {PRECISION: precision})

    def _parts(self, proven: CertifiedBatch) -> dict[str, PartResult]:
        """What is certified at each budget, and the radius, as they are stored."""
        budgets = zip(proven.epsilons, proven.certified, proven.margins, strict=True)
        parts = {
            f"{epsilon:.6g}": PartResult(
                {column(proven.name, epsilon): holds.astype(np.int32)}, {}, {MARGIN: bounds}
            )
            for epsilon, holds, bounds in budgets
        }
        if proven.radius is not None:
            parts[_RADIUS] = PartResult({radius_column(proven.name): proven.radius})
        return parts

    def _key(self, part: str) -> str:
        plan = replace(self.plan, epsilons=(), radius=False)
        return f"{self.plan.name} {part} {identity(plan, rules_of_others())}"

    def _radius(self, batch: Batch) -> NDArray[np.float64]:
        radii = self._certifier.radius(
            batch.images, batch.labels, norm=self.plan.norm, tolerance=consistency.RADIUS_TOLERANCE
        )
        radius: NDArray[np.float64] = radii.cpu().numpy()
        return radius

    def margins_at(self, batch: Batch, images: Tensor, epsilon: float) -> NDArray[np.float64]:
        """The margins (batch,), in float64, of images brought to within epsilon of a batch."""
        logits = self._certifier.predict(self._within(batch.images.double(), images, epsilon))
        margins: NDArray[np.float64] = (-margin(logits, batch.labels)).cpu().numpy()
        return margins

    def _within(self, clean: Tensor, images: Tensor, epsilon: float) -> Tensor:
        delta = norms.project(images.double() - clean, self.plan.norm, epsilon * _INSIDE)
        return (clean + delta).clamp(0.0, 1.0)

    def _is_refuted(self, batch: Batch, conflict: Conflict, evidence: Evidence) -> NDArray[np.bool_]:
        """Whether the float64 copy is wrong within epsilon; a tie is wrong."""
        rows = torch.from_numpy(conflict.rows).to(batch.labels.device)
        clean, labels = batch.images[rows].double(), batch.labels[rows]
        norm = self.plan.norm
        near = self._within(clean, evidence(conflict.outcome, rows), conflict.epsilon)
        is_correct = margin(self._certifier.predict(near), labels) < 0
        is_inside = norms.norm(near - clean, norm) <= conflict.epsilon
        refuted: NDArray[np.bool_] = (is_inside & ~is_correct).cpu().numpy()
        return refuted


def _refuted(name: str, conflict: Conflict, rows: NDArray[np.intp]) -> Violation:
    outcome = conflict.outcome
    fault = (
        "certified but wrong without any attack, in float64 too"
        if outcome.norm is None
        else f"certified but broken by {outcome.attack} within epsilon {outcome.epsilon:.6g}, in float64 too"
    )
    return Violation(name, conflict.epsilon, rows.tolist(), fault)


def _broken_at(row: int, norm: float, outcomes: Sequence[Outcome]) -> float:
    """The smallest budget at which some attack on a norm's ball broke a row."""
    return min(
        outcome.epsilon for outcome in outcomes if outcome.norm in (None, norm) and not outcome.robust[row]
    )


Evidence: TypeAlias = Callable[[Outcome, Tensor], Tensor]
"""(outcome, rows) -> the images (rows, …) by which an attack fooled the model."""


def evidence_of(
    predictor: Predictor,
    batch: Batch,
    scores: Scores,
    plans: Sequence[AttackPlan],
    is_correct: Tensor,
    prepare: Callable[[AttackPlan, float], None],
) -> Evidence:
    """Gives the images that fooled a model; where only the outcome was stored, the attack is run again.

    It is run on all that are correct without an attack, as when it was first run, since what it draws for an
    example may depend on the others.

    Args:
        predictor: Of the model.
        batch: The clean images.
        scores: What attacks left of it just now.
        plans: All attacks of which there are outcomes.
        is_correct: Which are correct without an attack: bools (batch,).
        prepare: Is called before an attack is run, and fixes what it will draw.
    """
    again: dict[tuple[str, float], Tensor] = {}
    by_name = {plan.name: plan for plan in plans}

    def rerun(plan: AttackPlan, epsilon: float) -> Tensor:
        key = (plan.name, epsilon)
        if key not in again:
            prepare(plan, epsilon)
            again[key] = batch.images.clone()
            attack = plan.attack.at(epsilon)
            again[key][is_correct] = attack(
                predictor.attack_model, batch.images[is_correct], batch.labels[is_correct]
            )
        return again[key]

    def images(outcome: Outcome, rows: Tensor) -> Tensor:
        clean = batch.images[rows]
        if outcome.norm is None:
            return clean
        fooling = scores.fooling.get(outcome.attack, batch.images)[rows]
        unknown = (fooling == clean).flatten(1).all(dim=1)
        if unknown.any():
            fooling[unknown] = rerun(by_name[outcome.attack], outcome.epsilon)[rows][unknown]
        return fooling

    return images
