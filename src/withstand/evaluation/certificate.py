"""What to prove of test examples, and the attack that every proof is held against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from withstand import norms
from withstand.attacks import PGD, Noise, margin
from withstand.certificates import METHODS, Method
from withstand.evaluation.rows import AttackPlan, column

__all__ = [
    "CERTIFIED_NORMS",
    "DEFAULT_ATTACK_STEPS",
    "Certificate",
    "CertificatePlan",
    "default_attack",
    "default_name",
    "plan_certificates",
    "plan_default_attacks",
]

CERTIFIED_NORMS = (2.0, math.inf)
"""The norms that certificates exist for."""

DEFAULT_ATTACK_STEPS = 20
"""Steps of the PGD that is run where an evaluation certifies but does not attack."""

_BOUNDS = {"best": "the tightest bound", "box_ball": "ball ∩ box", "box": "boxes", "ball": "balls"}


@dataclass(frozen=True)
class Certificate:
    """What to prove of each test example: that no image within epsilon changes its prediction.

    Args:
        norm: Of the ball that the attacker may choose from: 2 or inf.
        method: The domain to bound with, or best for the tightest.
        clip: Whether the attacker keeps to [0, 1].
        radius: Find the largest epsilon that is certified of each example, too.
        epsilons: Budgets in [0, 1] units, 8/255 may be written so; the evaluation's where null.

    Raises:
        ValueError: a setting is out of its range.
    """

    norm: float = 2.0
    method: Method = "best"
    clip: bool = True
    radius: bool = False
    epsilons: list[float] | None = None

    def __post_init__(self) -> None:
        if self.norm not in CERTIFIED_NORMS:
            raise ValueError(f"Certificates exist for norm 2 and inf, but got norm {self.norm:g}.")
        if self.method not in METHODS:
            raise ValueError(f"Expected a certificate's method of {', '.join(METHODS)}, got {self.method!r}.")
        if self.epsilons is not None:
            _require_budgets(self.epsilons)

    @property
    def name(self) -> str:
        """A short name without the budget, fit for a column: ``certified-l2``, ``certified-box-linf``."""
        method = "" if self.method == "best" else f"-{self.method.replace('_', '-')}"
        clip = "" if self.clip else "-unclipped"
        return f"certified{method}{clip}-{norms.label(self.norm)}"

    @property
    def is_nested(self) -> bool:
        """Whether its bound at a larger epsilon can never be tighter than at a smaller one.

        The ball that is put around a linf ball cut to [0, 1] moves its center as epsilon grows, so
        a larger one need not hold a smaller one.
        """
        return self.norm == 2 or self.method == "box" or not self.clip

    def describe(self) -> str:
        """A sentence of its settings, for a report."""
        pixels = "images in [0, 1]" if self.clip else "images of any pixels"
        return (
            f"Proven by {_BOUNDS[self.method]} for all {pixels} within {norms.label(self.norm)} epsilon, "
            "in float64 with guaranteed operator norms"
        )


@dataclass(frozen=True)
class CertificatePlan:
    """A certificate and the budgets to prove it at.

    Args:
        certificate: What to prove.
        epsilons: Budgets in [0, 1] units, ascending.
    """

    certificate: Certificate
    epsilons: Sequence[float]

    @property
    def name(self) -> str:
        """The certificate's."""
        return self.certificate.name


def plan_certificates(
    certificates: Sequence[Certificate], epsilons: Sequence[float]
) -> list[CertificatePlan]:
    """Certificates with their budgets in ascending order.

    Args:
        certificates: What to prove.
        epsilons: Budgets of those that have none of their own.

    Raises:
        ValueError: one has no budget, or two prove the same.
    """
    plans: list[CertificatePlan] = []
    for certificate in certificates:
        if certificate.name in [plan.name for plan in plans]:
            raise ValueError(
                f"Two certificates are both {certificate.name}: make them one with all their epsilons."
            )
        budgets = list(epsilons) if certificate.epsilons is None else certificate.epsilons
        _require_budgets(budgets)
        plans.append(CertificatePlan(certificate, sorted(set(budgets))))
    return plans


def _require_budgets(epsilons: Sequence[float]) -> None:
    if not epsilons:
        raise ValueError("Certificates need at least one epsilon to be proven at, but got none.")
    if any(not 0 <= epsilon < math.inf for epsilon in epsilons):
        raise ValueError(
            f"Expected every epsilon of a certificate to be finite and at least 0, but got {list(epsilons)}."
        )


def default_attack(norm: float) -> PGD:
    """What certified examples are attacked by where nothing else attacks them in their norm.

    Args:
        norm: 2 or inf.
    """
    return PGD(norm=norm, num_steps=DEFAULT_ATTACK_STEPS, loss=margin)


def default_name(name: str) -> str:
    """What the default attack is called where another one has its name."""
    return f"{name}-default"


def plan_default_attacks(
    certificates: Sequence[CertificatePlan], attacks: Sequence[AttackPlan]
) -> list[AttackPlan]:
    """An attack for every norm and budget that is certified but not attacked.

    It is run on all examples that stand, not on the certified ones alone, so that its curve is an
    attacked accuracy like any other.

    Args:
        certificates: What will be proven.
        attacks: What will be, or has been, run anyway.
    """
    taken = [plan.name for plan in attacks]
    found = []
    for norm in dict.fromkeys(plan.certificate.norm for plan in certificates):
        wanted = {
            epsilon for plan in certificates if plan.certificate.norm == norm for epsilon in plan.epsilons
        }
        missing = [each for each in sorted(wanted) if each > 0 and not _is_attacked(attacks, norm, each)]
        if missing:
            attack = default_attack(norm)
            name = default_name(attack.name) if attack.name in taken else attack.name
            found.append(AttackPlan(attack, missing, name, norm))
    return found


def _is_attacked(attacks: Sequence[AttackPlan], norm: float, epsilon: float) -> bool:
    """Whether an attack that searches, as random noise does not, is run in this ball."""
    budget = column("", epsilon)
    return any(
        plan.norm == norm
        and not isinstance(plan.attack, Noise)
        and budget in [column("", each) for each in plan.epsilons]
        for plan in attacks
    )
