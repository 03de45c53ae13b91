"""Which attacks and certificates to run, at which budgets, and under which names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from withstand.attacks import PGD, Attack, Noise, margin
from withstand.certificates import Method
from withstand.core import norms
from withstand.core.identity import identity
from withstand.core.setting_rules import AT_LEAST_0, list_of
from withstand.results.results import Target

DEFAULT_ATTACK_STEPS = 20
"""Steps of the PGD that is run where an evaluation certifies but does not attack."""


def norm_name(norm: float | None) -> str:
    """A norm as results spell it: ``inf``, ``2``, ``1``, or ``none``."""
    return "none" if norm is None else f"{norm:g}"


budgets = list_of(AT_LEAST_0)
"""The rule (``core.setting_rules``) of a list of epsilons, in [0, 1] units."""


def warn_beyond_range(of: Iterable[float | None], epsilons: Sequence[float]) -> None:
    """Warns of the largest budget where it is too large in a norm and that shows without images."""
    for norm in dict.fromkeys(of):
        norms.warn_beyond_range(norm, max(epsilons))


def beyond_range(
    attacks: Iterable[AttackPlan], certificates: Iterable[CertificatePlan], num_values: int
) -> list[str]:
    """What to say of budgets that are larger than the distance of any two images.

    Of a certificate of pixels of any value nothing is: there is no largest distance.

    Args:
        attacks: What is run.
        certificates: What is proven.
        num_values: Of an image: pixels times channels.
    """
    plans: list[AttackPlan | CertificatePlan] = [*attacks, *(plan for plan in certificates if plan.clip)]
    words = (
        norms.beyond_range(plan.norm, epsilon, num_values) for plan in plans for epsilon in plan.epsilons
    )
    return [text for text in dict.fromkeys(words) if text]


@dataclass(frozen=True)
class AttackPlan:
    """An attack and the budgets to run it at.

    Args:
        attack: As it is run, where only success counts, at whatever budget.
        epsilons: Budgets in [0, 1] units, ascending.
        name: Unique among the plans of one evaluation.
    """

    attack: Attack
    epsilons: Sequence[float]
    name: str

    @property
    def norm(self) -> float | None:
        """Of the attack's ball; None where it has none to check."""
        return self.attack.norm

    def target(self, epsilon: float) -> Target:
        """The attack at a budget, as results spell it."""
        return Target(self.name, norm_name(self.norm), epsilon)


@dataclass(frozen=True)
class CertificatePlan:
    """A certificate and the budgets to prove it at.

    Args:
        norm: Of the ball that the attacker may choose from: 1, 2 or inf.
        method: As of ``Certifier``.
        clip: Whether the attacker keeps to [0, 1].
        radius: Find the largest epsilon that is certified of each example, too.
        timeout: As of ``Certifier``.
        epsilons: Budgets in [0, 1] units, ascending.
        name: Without the budget, fit for a column.
        description: A sentence of its settings.
    """

    norm: float
    method: Method
    clip: bool
    radius: bool
    timeout: float
    epsilons: Sequence[float]
    name: str
    description: str

    @property
    def is_nested(self) -> bool:
        """Whether its bound at a larger epsilon can never be tighter than at a smaller one.

        The ball that is put around a linf ball cut to [0, 1] moves its center as epsilon grows, so
        a larger one need not hold a smaller one; and which slope of a linear bound is the better one changes.
        """
        if self.method in ("box_ball", "ball"):
            return self.norm != math.inf or not self.clip
        return self.method == "box"


@dataclass(frozen=True)
class WorstPlan:
    """All attacks of one norm together: an example is robust only where it withstands each of them.

    Where answers are drawn, the worst attack of an example is chosen by other predictions than are reported.

    Attributes:
        name: ``worst-linf``.
        norm: Of the attacks' balls.
        epsilons: Budgets, ascending.
        members: The names of the attacks.
    """

    name: str
    norm: float
    epsilons: Sequence[float]
    members: Sequence[str]


def merged_attacks(plans: Iterable[AttackPlan]) -> list[AttackPlan]:
    """One plan an attack, with all budgets that it is asked for at, and names that differ."""
    by_attack: dict[str, AttackPlan] = {}
    for plan in plans:
        key = identity(plan.attack.at(0.0))
        known = by_attack.get(key)
        epsilons = sorted({*plan.epsilons, *(known.epsilons if known else ())})
        by_attack[key] = replace(plan, epsilons=epsilons)
    named: list[AttackPlan] = []
    for plan in by_attack.values():
        alike = sum(other.attack.name == plan.attack.name for other in named)
        named.append(replace(plan, name=plan.name if not alike else f"{plan.name}-{alike + 1}"))
    return named


def merged_certificates(plans: Iterable[CertificatePlan]) -> list[CertificatePlan]:
    """One plan a certificate, with all budgets that it is asked for at, and its radius if any asks for it."""
    merged: dict[str, CertificatePlan] = {}
    for plan in plans:
        known = merged.get(plan.name, plan)
        epsilons = sorted({*plan.epsilons, *known.epsilons})
        merged[plan.name] = replace(plan, epsilons=epsilons, radius=plan.radius or known.radius)
    return list(merged.values())


def worst_plans(plans: Sequence[AttackPlan]) -> list[WorstPlan]:
    """One for each norm in which there are several attacks at the same budgets, in all of their ball."""
    worst, plans = [], [plan for plan in plans if not plan.attack.is_masked]
    for norm, epsilons in dict.fromkeys((plan.norm, tuple(plan.epsilons)) for plan in plans):
        alike = [plan for plan in plans if (plan.norm, tuple(plan.epsilons)) == (norm, epsilons)]
        if norm is not None and len(alike) > 1:
            name = f"worst-{norms.label(norm)}"
            worst.append(WorstPlan(name, norm, alike[0].epsilons, [plan.name for plan in alike]))
    return worst


def default_attack(norm: float) -> PGD:
    """What certified examples are attacked by where nothing else attacks them in their norm.

    Args:
        norm: 1, 2 or inf.
    """
    return PGD(norm=norm, num_steps=DEFAULT_ATTACK_STEPS, loss=margin)


def default_plans(certificates: Sequence[CertificatePlan], attacks: Sequence[AttackPlan]) -> list[AttackPlan]:
    """An attack for every norm and budget that is certified but not attacked.

    It is run on all examples that are robust so far, not on the certified ones alone, so that its curve is an
    attacked accuracy like any other.

    Args:
        certificates: What will be proven.
        attacks: What will be run anyway.
    """
    taken = [plan.name for plan in attacks]
    defaults = []
    for norm in dict.fromkeys(plan.norm for plan in certificates):
        certified = {epsilon for plan in certificates if plan.norm == norm for epsilon in plan.epsilons}
        missing = [
            epsilon
            for epsilon in sorted(certified)
            if epsilon > 0 and not _is_attacked(attacks, norm, epsilon)
        ]
        if missing:
            attack = default_attack(norm)
            name = f"{attack.name}-default" if attack.name in taken else attack.name
            defaults.append(AttackPlan(attack.for_evaluation(), missing, name))
    return defaults


def _is_attacked(attacks: Sequence[AttackPlan], norm: float, epsilon: float) -> bool:
    """Whether an attack that searches all of this ball, as random noise does not, is run in it."""
    return any(
        plan.norm == norm
        and not (isinstance(plan.attack, Noise) or plan.attack.is_masked)
        and f"{epsilon:.6g}" in [f"{budget:.6g}" for budget in plan.epsilons]
        for plan in attacks
    )
