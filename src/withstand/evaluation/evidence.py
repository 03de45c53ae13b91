"""The images by which attacks fooled a model, kept or made again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import Tensor

from withstand.certificates.consistency import Outcome
from withstand.evaluation.attacking import Scores
from withstand.evaluation.judge import Judge
from withstand.evaluation.plans import AttackPlan
from withstand.types import Batch

Evidence: TypeAlias = Callable[[Outcome, Tensor], Tensor]
"""(outcome, rows) -> the images (rows, …) by which an attack fooled the model."""


def evidence_of(
    judge: Judge,
    batch: Batch,
    scores: Scores,
    plans: Sequence[AttackPlan],
    is_right: Tensor,
    prepare: Callable[[AttackPlan, float], None],
) -> Evidence:
    """Gives the images that fooled a model; where only the outcome was kept, the attack is run again.

    It is run on all that are right without an attack, as when it was first run, since what it draws for an
    example may depend on the others.

    Args:
        judge: Of the model.
        batch: The clean images.
        scores: What attacks left of it just now.
        plans: All attacks of which there are outcomes.
        is_right: Who is right without an attack: bools (batch,).
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
            again[key][is_right] = attack(judge.target, batch.images[is_right], batch.labels[is_right])
        return again[key]

    def images(outcome: Outcome, rows: Tensor) -> Tensor:
        clean = batch.images[rows]
        if outcome.norm is None:
            return clean
        found = scores.fooling.get(outcome.attack, batch.images)[rows]
        unknown = (found == clean).flatten(1).all(dim=1)
        if unknown.any():
            found[unknown] = rerun(by_name[outcome.attack], outcome.epsilon)[rows][unknown]
        return found

    return images
