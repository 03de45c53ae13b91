"""Which suite of attacks to run, in which norms and at which budgets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import get_args

from torch import nn

from withstand.attacks import Attack, SuiteLevel, suite
from withstand.evaluation.certificate import Certificate
from withstand.evaluation.rows import AttackPlan
from withstand.norms import require_norm

__all__ = ["Suite", "plan_suite", "suite_budgets"]


@dataclass(frozen=True)
class Suite:
    """A set of attacks that are run one after another, each on what the ones before it left standing.

    Args:
        level: fast, standard (with AutoAttack), or thorough (with minimal-norm and decision attacks, too).
        norms: 1, 2 or inf; those of the evaluation's attacks and certificates where null.
        epsilons: Budgets in [0, 1] units, in each of the norms. Where null, those of the evaluation in the
            norms of its attacks, or in linf where it has none; and those of its certificates in theirs.
        transfer_from: Folders of other runs, whose models' adversarial images are tried, too.

    Raises:
        ValueError: a setting is out of its range.
    """

    level: SuiteLevel = "standard"
    norms: list[float] | None = None
    epsilons: list[float] | None = None
    transfer_from: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.level not in get_args(SuiteLevel):
            raise ValueError(
                f"Expected a suite of {', '.join(get_args(SuiteLevel))}, but got {self.level!r}."
            )
        for norm in self.norms or ():
            require_norm(norm)
        if self.norms == [] or self.epsilons == []:
            raise ValueError("A suite needs at least one norm and one epsilon; leave them out for the usual.")
        if any(not 0 <= epsilon < math.inf for epsilon in self.epsilons or ()):
            raise ValueError(
                f"Expected every epsilon of a suite to be finite and at least 0, but got {self.epsilons}."
            )


def suite_budgets(
    settings: Suite, attacks: Sequence[Attack], certificates: Sequence[Certificate], epsilons: Sequence[float]
) -> dict[float, list[float]]:
    """Norm -> budgets, ascending, at which a suite is run.

    Args:
        settings: Of the suite.
        attacks: Of the evaluation; they are run at ``epsilons``.
        certificates: Of the evaluation; at their own epsilons or at these.
        epsilons: Of the evaluation.

    Raises:
        ValueError: there is no budget for a norm.
    """
    attacked = [attack.norm for attack in attacks if attack.norm is not None]
    if not attacked and all(certificate.epsilons is not None for certificate in certificates) and epsilons:
        attacked = [math.inf]  # for whom else would the budgets be
    proven = [certificate.norm for certificate in certificates]
    chosen = settings.norms or list(dict.fromkeys([*attacked, *proven])) or [math.inf]
    found = {}
    for norm in chosen:
        own = [each.epsilons for each in certificates if each.norm == norm and each.epsilons is not None]
        # Budgets in one norm say nothing of another, so a certificate's own do for its norm.
        shared = list(epsilons) if norm in attacked or not own else []
        budgets = settings.epsilons or [*shared, *(epsilon for each in own for epsilon in each)]
        if not budgets:
            raise ValueError(
                f"A suite of attacks needs at least one epsilon to be run at in norm {norm:g}, but got none: "
                "give epsilons, or leave the suite out (null)."
            )
        found[norm] = sorted(set(budgets))
    return found


def plan_suite(
    settings: Suite,
    budgets: Mapping[float, Sequence[float]],
    num_classes: int,
    surrogates: Mapping[str, nn.Module] = MappingProxyType({}),
    *,
    is_random: bool,
) -> list[AttackPlan]:
    """One plan a norm.

    Args:
        settings: Of the suite.
        budgets: Norm -> budgets, ascending.
        num_classes: Of the model's answers.
        surrogates: Name -> another model, whose adversarial images are tried, too.
        is_random: Whether the model draws its answers.
    """
    plans = []
    for norm, epsilons in budgets.items():
        attack = suite(
            settings.level, norm=norm, num_classes=num_classes, is_random=is_random, surrogates=surrogates
        )
        plans.append(AttackPlan(attack, epsilons, attack.name, norm))
    return plans
