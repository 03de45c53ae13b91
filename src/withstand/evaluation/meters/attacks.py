"""Which attacks to run, some of one's own or a suite of several kinds, and what to prove beside them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

from torch import nn
from typing_extensions import override

from withstand.attacks import Attack, Cascade, SuiteLevel, require_packages, suite
from withstand.attacks.attack import an_attack
from withstand.certificates import TIMEOUT, Method, Unproven, require_method
from withstand.core import norms
from withstand.core.dataset_info import DatasetInfo
from withstand.core.identity import identity
from withstand.core.setting_rules import POSITIVE, flag, list_of, settle
from withstand.domains.sets.input_sets import certified_norm
from withstand.evaluation.meter import Meter, Needs, Sources
from withstand.evaluation.meters.gradient_checks import LargeEpsilon, VanishingGradients
from withstand.evaluation.plans import AttackPlan, CertificatePlan, budgets, warn_beyond_range
from withstand.types import ModelError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attacks(Meter):
    """Accuracy under attacks of your own, each run at every epsilon.

    Every attack runs where only its success counts (best iterate, restarts, stop when fooled), and its
    success is decided by the evaluation. Several ``Attacks`` are measured beside each other.

    Args:
        attacks: At least one; at whatever budget.
        epsilons: Budgets in [0, 1] units, in any order; a recipe may have 8/255.

    Raises:
        TypeError: something is no attack, or an epsilon no number.
        ValueError: there is no attack or no epsilon, or an epsilon is negative or not finite.
    """

    needs = Needs(batches=False)
    attacks: list[Attack]
    epsilons: list[float]

    def __post_init__(self) -> None:
        settle(self, attacks=list_of(an_attack), epsilons=budgets)
        warn_beyond_range([attack.norm for attack in self.attacks], self.epsilons)

    @property
    @override
    def name(self) -> str:
        return f"attacks {identity(self)}"

    @override
    def implied(self) -> Sequence[Meter]:
        return [VanishingGradients()]

    @override
    def require(self, info: DatasetInfo) -> None:
        require_packages(self.attacks)

    @override
    def attack_plans(self, info: DatasetInfo, *, is_random: bool) -> list[AttackPlan]:
        return _plans(self.attacks, self.epsilons, is_random=is_random)


@dataclass(frozen=True)
class Suite(Meter):
    """Attacks of several kinds one after another, each on what the ones before it left.

    Signs of false robustness are looked for as well. Several suites are measured beside each other,
    such as one for each norm.

    Args:
        level: fast, standard (with AutoAttack), or thorough (with minimal-norm and decision attacks, too).
        epsilons: Budgets in [0, 1] units, in each of the norms.
        norms: 1, 2 or inf.
        transfer_from: Folders of other runs, whose models' adversarial images are tried, too; or name ->
            model, which maps images in [0, 1] to logits of the same classes.
        unless_proven: Attack only what this method of a certificate, such as box, does not prove at the
            attack's epsilon (``certificates.Unproven``); all where None.

    Raises:
        ValueError: a setting is out of its range.
    """

    needs = Needs(batches=False)
    level: SuiteLevel
    epsilons: list[float]
    norms: list[float] = field(default_factory=lambda: [math.inf])
    transfer_from: list[str] | dict[str, nn.Module] = field(default_factory=list)
    unless_proven: Method | None = None

    def __post_init__(self) -> None:
        if self.level not in get_args(SuiteLevel):
            raise ValueError(
                f"Expected a suite of {', '.join(get_args(SuiteLevel))}, but got {self.level!r}."
            )
        settle(self, norms=list_of(norms.norm_rule), epsilons=budgets)
        if self.unless_proven is not None:
            require_method(self.unless_proven)
        warn_beyond_range(self.norms, self.epsilons)

    @property
    @override
    def name(self) -> str:
        return f"suite {identity(self)}"

    @override
    def implied(self) -> Sequence[Meter]:
        return [VanishingGradients(), *(LargeEpsilon(norm) for norm in self.norms)]

    @override
    def resolved(self, sources: Sources) -> Meter:
        if isinstance(self.transfer_from, dict):
            return self
        models = {folder: sources.model(folder) for folder in self.transfer_from}
        return replace(self, transfer_from=_named(models))

    @override
    def require(self, info: DatasetInfo) -> None:
        attacks = self._attacks(info, is_random=False)
        require_packages(attacks)
        for cascade in attacks:
            if cascade.left_out:
                _logger.warning(
                    "The suite %s leaves out %s: these are %s.", cascade.name, cascade.left_out, info.form
                )

    @override
    def attack_plans(self, info: DatasetInfo, *, is_random: bool) -> list[AttackPlan]:
        attacks: Sequence[Attack] = self._attacks(info, is_random=is_random)
        if self.unless_proven is not None:
            if is_random:
                raise ModelError(
                    "The model draws its answers, and nothing is proven of drawn answers: "
                    "leave unless_proven out."
                )
            attacks = [Unproven(attack, self.unless_proven) for attack in attacks]
        return _plans(attacks, self.epsilons, is_random=is_random)

    def _attacks(self, info: DatasetInfo, *, is_random: bool) -> list[Cascade]:
        surrogates = self.transfer_from if isinstance(self.transfer_from, dict) else {}
        return [
            suite(
                self.level,
                norm=norm,
                num_classes=info.num_classes,
                is_random=is_random,
                surrogates=surrogates,
                has_images=len(info.shape) == 3,
            )
            for norm in self.norms
        ]


def _plans(attacks: Sequence[Attack], epsilons: Sequence[float], *, is_random: bool) -> list[AttackPlan]:
    forms = [attack.for_random_answers() if is_random else attack.for_evaluation() for attack in attacks]
    ascending = sorted(set(epsilons))
    return [AttackPlan(form, ascending, attack.name) for form, attack in zip(forms, attacks, strict=True)]


def _named(models: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """By the last part of their folders, numbered where others have it."""
    by_name: dict[str, nn.Module] = {}
    for folder, model in models.items():
        name = folder.replace("\\", "/").rstrip("/").rpartition("/")[2]
        alike = sum(other == name or other.startswith(f"{name}-") for other in by_name)
        by_name[name if not alike else f"{name}-{alike + 1}"] = model
    return by_name


_BOUNDS = {
    "best": "ball ∩ box, and backward linear bounds (CROWN) where that fails,",
    "box_ball": "ball ∩ box",
    "box": "boxes",
    "ball": "balls",
    "linear": "backward linear bounds (CROWN)",
    "linear-optimised": "backward linear bounds of optimised slopes (alpha-CROWN)",
    "branch-and-bound": "branch and bound (beta-CROWN)",
}


@dataclass(frozen=True)
class Certificate(Meter):
    """What to prove of each test example: that no image within epsilon changes its prediction.

    What is certified is attacked too: by PGD of 20 steps where nothing else attacks it in that norm at that
    epsilon. Two that differ in their epsilons alone are one.

    Args:
        norm: Of the ball that the attacker may choose from: 1, 2 or inf.
        epsilons: Budgets in [0, 1] units; a recipe may have 8/255.
        method: The domain to bound with; or best: box_ball, and linear for what that does not prove.
        clip: Whether the attacker keeps to [0, 1].
        radius: Find the largest epsilon that is certified of each example, too.
        timeout: Seconds an example, at each epsilon, that branch-and-bound may take.

    Raises:
        ValueError: a setting is out of its range.
    """

    needs = Needs(batches=False, fixed_weights=True)
    norm: float
    epsilons: list[float]
    method: Method = "best"
    clip: bool = True
    radius: bool = False
    timeout: float = TIMEOUT

    def __post_init__(self) -> None:
        settle(self, norm=certified_norm, epsilons=budgets, clip=flag, radius=flag, timeout=POSITIVE)
        if self.clip:
            warn_beyond_range([self.norm], self.epsilons)
        require_method(self.method)

    @property
    @override
    def name(self) -> str:
        at = ",".join(f"{epsilon:.6g}" for epsilon in self.epsilons)
        return f"{self.certificate_name} at {at}{' with radii' if self.radius else ''}"

    @property
    def certificate_name(self) -> str:
        """A short name without the budget, fit for a column: ``certified-l2``, ``certified-box-linf``."""
        method = "" if self.method == "best" else f"-{self.method.replace('_', '-')}"
        clip = "" if self.clip else "-unclipped"
        return f"certified{method}{clip}-{norms.label(self.norm)}"

    def describe(self) -> str:
        """A sentence of its settings, for a report."""
        pixels = "images in [0, 1]" if self.clip else "images of any pixels"
        within = f", at most {self.timeout:g} s an image," if self.method == "branch-and-bound" else ""
        return (
            f"Proven by {_BOUNDS[self.method]}{within} for all {pixels} within {norms.label(self.norm)} "
            "epsilon, in float64 with guaranteed operator norms"
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
                self.timeout,
                sorted(set(self.epsilons)),
                self.certificate_name,
                self.describe(),
            )
        ]
