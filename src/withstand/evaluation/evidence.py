"""The images by which attacks fooled a model, kept or made again."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from withstand.evaluation.judge import Judge
from withstand.evaluation.laws import Outcome
from withstand.evaluation.proofs import Evidence
from withstand.evaluation.rows import AttackPlan, Scores
from withstand.types import Batch

__all__ = ["evidence_of"]


def evidence_of(judge: Judge, batch: Batch, scores: Scores, plans: Sequence[AttackPlan]) -> Evidence:
    """Gives the images that fooled a model; where only the outcome was kept, the attack is run again.

    Args:
        judge: Of the model.
        batch: The clean images.
        scores: What attacks left of it just now.
        plans: All attacks of which there are outcomes.
    """
    by_name = {plan.name: plan for plan in plans}

    def images(outcome: Outcome, rows: Tensor) -> Tensor:
        clean = batch.images[rows]
        if outcome.norm is None:
            return clean
        found = scores.fooling.get(outcome.attack, batch.images)[rows]
        unknown = (found == clean).flatten(1).all(dim=1)
        if unknown.any():
            attack = by_name[outcome.attack].form.at(outcome.epsilon)
            found[unknown] = attack(judge.target, clean[unknown], batch.labels[rows][unknown])
        return found

    return images
