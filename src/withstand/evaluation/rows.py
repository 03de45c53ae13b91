"""One row a test example: what the model says of it, clean and under each attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from withstand import norms
from withstand.attacks import Attack

__all__ = [
    "ATTACKED",
    "CLEAN",
    "FELLED",
    "AttackPlan",
    "Columns",
    "Scores",
    "WorstPlan",
    "by_column",
    "column",
    "prediction_column",
    "shown",
    "worst_plans",
]

CLEAN = "clean"
ATTACKED, FELLED = "attacked", "felled"
"""What is counted of each stage of an attack: examples it was run on, right predictions that it took away."""

Columns = dict[str, NDArray[np.generic]]

_HIDDEN = "_"  # before the names of columns that are kept for the evaluation alone


@dataclass(frozen=True)
class AttackPlan:
    """An attack and the budgets to run it at.

    Args:
        attack: At whatever budget; it is run at each of ``epsilons``.
        epsilons: Budgets in [0, 1] units, ascending.
        name: Unique among the plans of one evaluation.
        norm: Of the attack's ball, or None where it has none to check.
        is_random: Whether the attacked model draws its answers.
    """

    attack: Attack
    epsilons: Sequence[float]
    name: str
    norm: float | None
    is_random: bool = False

    @property
    def form(self) -> Attack:
        """The attack as it is run: where only success counts."""
        return self.attack.for_random_answers() if self.is_random else self.attack.for_evaluation()


def column(name: str, epsilon: float) -> str:
    """The column that says whether an example is still right under an attack: ``pgd-40-linf@0.3``."""
    return f"{name}@{epsilon:.6g}"


def prediction_column(name: str, epsilon: float) -> str:
    """The column of the class that is predicted under an attack."""
    return f"{column(name, epsilon)}:prediction"


def by_column(name: str, epsilon: float) -> str:
    """The column of the stage of an attack that found an example's image; empty where none did."""
    return f"{column(name, epsilon)}:by"


def shown(columns: Columns) -> Columns:
    """The columns for ``examples.csv``, without those that are only kept."""
    return {name: values for name, values in columns.items() if not name.startswith(_HIDDEN)}


class Scores(NamedTuple):
    """What attacks left of one batch.

    Attributes:
        columns: Column name -> array (batch,).
        fooling: Name of an attack's plan -> images (batch, …): for each example that fell to it the
            one that fooled the model, for all others the clean one. Absent where none fell.
        counts: Column of an attack at a budget -> what is counted of its stages.
    """

    columns: Columns
    fooling: Mapping[str, Tensor]
    counts: Mapping[str, Mapping[str, NDArray[np.int64]]]


@dataclass(frozen=True)
class WorstPlan:
    """All attacks of one norm together: an example stands only where it withstands each of them.

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


def worst_plans(plans: Sequence[AttackPlan]) -> list[WorstPlan]:
    """One for each norm in which there are several attacks at the same budgets."""
    found = []
    for norm, epsilons in dict.fromkeys((plan.norm, tuple(plan.epsilons)) for plan in plans):
        alike = [plan for plan in plans if (plan.norm, tuple(plan.epsilons)) == (norm, epsilons)]
        if norm is not None and len(alike) > 1:
            name = f"worst-{norms.label(norm)}"
            found.append(WorstPlan(name, norm, alike[0].epsilons, [plan.name for plan in alike]))
    return found
