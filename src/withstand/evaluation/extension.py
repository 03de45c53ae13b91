"""What a former evaluation holds, and what is to be added to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from withstand.evaluation.certificate import (
    CERTIFIED_NORMS,
    Certificate,
    CertificatePlan,
    default_attack,
    default_name,
    plan_certificates,
    plan_default_attacks,
)
from withstand.evaluation.rows import AttackPlan, column

__all__ = ["Extension", "FormerEvaluation", "is_whole", "plan_extension"]


@dataclass(frozen=True)
class FormerEvaluation:
    """What an evaluation has left in a run folder.

    Args:
        rows: Of ``examples.csv``.
        metrics: Of ``metrics.json``.
        attacks: What it ran, in its order.
    """

    rows: pd.DataFrame
    metrics: Mapping[str, Any]
    attacks: Sequence[AttackPlan]


@dataclass(frozen=True)
class Extension:
    """All that the rows will have: what is kept, and what is to be run.

    Attributes:
        attacks: Each with all its budgets, kept and new.
        fresh: Those to run, at the budgets that are new.
        proofs: What to prove, at the budgets asked for.
        kept: Name of a certificate -> the other budgets that the rows have of it.
    """

    attacks: Sequence[AttackPlan]
    fresh: Sequence[AttackPlan]
    proofs: Sequence[CertificatePlan]
    kept: Mapping[str, Sequence[float]]

    @property
    def certified(self) -> list[CertificatePlan]:
        """The certificates with all their budgets, kept and new."""
        return [
            replace(plan, epsilons=sorted({*plan.epsilons, *self.kept[plan.name]})) for plan in self.proofs
        ]


def plan_extension(former: FormerEvaluation, certificates: Sequence[Certificate]) -> Extension:
    """What to run and to prove, beside what is there.

    Args:
        former: What is there.
        certificates: What to prove, each at its own epsilons.

    Raises:
        ValueError: a certificate has no epsilon, or two are alike.
    """
    proofs = plan_certificates(certificates, [])
    attacks = [_within(former.rows, plan) for plan in former.attacks]
    defaults = [_within(former.rows, plan) for plan in _former_defaults(former)]
    fresh = plan_default_attacks(proofs, [*attacks, *defaults])
    by_norm = {plan.norm: plan for plan in defaults}
    fresh = [replace(plan, name=by_norm[plan.norm].name) if plan.norm in by_norm else plan for plan in fresh]
    merged = {plan.name: plan for plan in [*attacks, *defaults] if plan.epsilons}
    for plan in fresh:
        before = merged[plan.name].epsilons if plan.name in merged else []
        merged[plan.name] = replace(plan, epsilons=sorted({*before, *plan.epsilons}))
    kept = {plan.name: _kept(former, plan) for plan in proofs}
    return Extension(list(merged.values()), fresh, proofs, kept)


def is_whole(rows: pd.DataFrame, name: str) -> bool:
    """Whether there is a column with a value for every example."""
    return name in rows and not rows[name].isna().any()


def _kept(former: FormerEvaluation, plan: CertificatePlan) -> list[float]:
    """The budgets at which a certificate is not asked for, but was proven before."""
    known = _epsilons_of(former.metrics.get("certificates", [])).get(plan.name, [])
    asked = [column(plan.name, epsilon) for epsilon in plan.epsilons]
    found = {epsilon: column(plan.name, epsilon) for epsilon in known}
    return [each for each, name in found.items() if name not in asked and is_whole(former.rows, name)]


def _within(rows: pd.DataFrame, plan: AttackPlan) -> AttackPlan:
    """An attack at those budgets that the rows have."""
    return replace(plan, epsilons=[each for each in plan.epsilons if is_whole(rows, column(plan.name, each))])


def _former_defaults(former: FormerEvaluation) -> list[AttackPlan]:
    """The attacks that certificates, not the recipe, called for."""
    own = [plan.name for plan in former.attacks]
    known = _epsilons_of(former.metrics.get("attacks", []))
    return [
        AttackPlan(attack, known[name], name, attack.norm)
        for attack in map(default_attack, CERTIFIED_NORMS)
        for name in (attack.name, default_name(attack.name))
        if name in known and name not in own
    ]


def _epsilons_of(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    return {entry["name"]: [point["epsilon"] for point in entry["curve"]] for entry in entries}
