"""How hard the lower bounds are sought."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from withstand.checks import require_at_least
from withstand.data import Deform

__all__ = ["LEAST_EPSILON", "KernelNorms"]

LEAST_EPSILON = 1e-3
"""Budgets below this are refused: rounding would count beside the differences of logits."""


@dataclass(frozen=True)
class KernelNorms:
    """How to bound the kernel norm of each class logit of a trained model.

    Args:
        num_examples: Look at the first so many of the examples that are scored; more can only raise the
            bounds from below.
        epsilon: l2 budget of the perturbations, in [0, 1] units.
        num_steps: Steps of the ascent, each of 1.5 epsilon / num_steps.
        num_perturbed: How many examples a class are perturbed: those with the steepest gradients.
        deform: The deformations.
        num_deformations: Random ones of each example; 0 leaves them out.

    Raises:
        ValueError: a number is out of its range.
    """

    num_examples: int = 1000
    epsilon: float = 1.0
    num_steps: int = 5
    num_perturbed: int = 32
    deform: Deform = field(default_factory=Deform)
    num_deformations: int = 4

    def __post_init__(self) -> None:
        counts = ("num_examples", "num_steps", "num_perturbed")
        require_at_least(1, "the kernel norms", **{name: getattr(self, name) for name in counts})
        require_at_least(0, num_deformations=self.num_deformations)
        if not LEAST_EPSILON <= self.epsilon < math.inf:
            raise ValueError(
                f"Expected the kernel norms' epsilon to be finite and at least {LEAST_EPSILON:g}, "
                f"but got {self.epsilon:g}."
            )

    def describe(self) -> str:
        """A sentence of the settings, for a report."""
        deformed = (
            f"; {self.num_deformations} random deformations of each example" if self.num_deformations else ""
        )
        return (
            f"Gradients at each example; ascent in {self.num_steps} steps within l2 {self.epsilon:g} from "
            f"the {self.num_perturbed} examples at which each class logit is steepest{deformed}; all in "
            "float64"
        )
