"""What to prove of test examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import override

from withstand import norms
from withstand.certificates import METHODS, Method
from withstand.evaluation.meter import Meter, Needs
from withstand.evaluation.meters.gradients import VanishingGradients
from withstand.evaluation.plans import CertificatePlan, require_epsilons

CERTIFIED_NORMS = (2.0, float("inf"))
"""The norms that certificates exist for."""

_BOUNDS = {"best": "the tightest bound", "box_ball": "ball ∩ box", "box": "boxes", "ball": "balls"}


@dataclass(frozen=True)
class Certificate(Meter):
    """What to prove of each test example: that no image within epsilon changes its prediction.

    What is certified is attacked too: by PGD of 20 steps where nothing else attacks it in that norm at that
    epsilon. Two that differ in their epsilons alone are one.

    Args:
        norm: Of the ball that the attacker may choose from: 2 or inf.
        epsilons: Budgets in [0, 1] units; a recipe may have 8/255.
        method: The domain to bound with, or best for the tightest.
        clip: Whether the attacker keeps to [0, 1].
        radius: Find the largest epsilon that is certified of each example, too.

    Raises:
        ValueError: a setting is out of its range.
    """

    needs = Needs(batches=False, fixed_weights=True)
    norm: float
    epsilons: list[float]
    method: Method = "best"
    clip: bool = True
    radius: bool = False

    def __post_init__(self) -> None:
        if self.norm not in CERTIFIED_NORMS:
            raise ValueError(f"Certificates exist for norm 2 and inf, but got norm {self.norm:g}.")
        if self.method not in METHODS:
            raise ValueError(f"Expected a certificate's method of {', '.join(METHODS)}, got {self.method!r}.")
        require_epsilons(self.epsilons, of="Certificates")

    @property
    @override
    def name(self) -> str:
        budgets = ",".join(f"{epsilon:.6g}" for epsilon in self.epsilons)
        return f"{self.certificate_name} at {budgets}{' with radii' if self.radius else ''}"

    @property
    def certificate_name(self) -> str:
        """A short name without the budget, fit for a column: ``certified-l2``, ``certified-box-linf``."""
        method = "" if self.method == "best" else f"-{self.method.replace('_', '-')}"
        clip = "" if self.clip else "-unclipped"
        return f"certified{method}{clip}-{norms.label(self.norm)}"

    def describe(self) -> str:
        """A sentence of its settings, for a report."""
        pixels = "images in [0, 1]" if self.clip else "images of any pixels"
        return (
            f"Proven by {_BOUNDS[self.method]} for all {pixels} within {norms.label(self.norm)} epsilon, "
            "in float64 with guaranteed operator norms"
        )

    @override
    def implied(self) -> Sequence[Meter]:
        return [VanishingGradients()]

    @override
    def certificate_plans(self) -> Sequence[CertificatePlan]:
        return [
            CertificatePlan(
                self.norm,
                self.method,
                self.clip,
                self.radius,
                sorted(set(self.epsilons)),
                self.certificate_name,
                self.describe(),
            )
        ]
