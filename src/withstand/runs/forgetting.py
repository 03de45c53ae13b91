"""Takes back what a run was measured by: an attack, a budget, a certificate, a meter or a measure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from withstand.core.identity import identity
from withstand.core.run_folder import RunFolder
from withstand.core.suggest import nearest
from withstand.evaluation import Evaluation, Meter
from withstand.evaluation.attacking import column
from withstand.evaluation.meters import Attacks, Certificate, Suite
from withstand.evaluation.plans import (
    AttackPlan,
    CertificatePlan,
    default_plans,
    merged_attacks,
    merged_certificates,
)
from withstand.recipes.parsing import ParsedRecipe, flow, load_yaml, parse_recipe
from withstand.results import Results, read_results
from withstand.results.measurements import ATTACKED, CERTIFIED
from withstand.runs.asked import pairs_of
from withstand.runs.loading import RecipeSources
from withstand.runs.run_parts import open_run
from withstand.runs.stages import former_evaluation, measure_all, note_command, write_recipe
from withstand.types import RunFolderError

_ITEMS: Mapping[type[Meter], str] = {Attacks: "attacks", Suite: "norms"}
"""The setting of a meter that has one item for each of its attacks."""


class _Part(NamedTuple):
    """One meter of a recipe; or one of its attacks or certificates; or that at one epsilon."""

    meter: int
    place: int | None = None
    epsilon: float | None = None


def forget(
    folder: Path,
    names: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    command: str,
    on_batch: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Takes something out of the results of a run, and out of what its recipe asks for.

    All else is put together from what is stored. Where answers are drawn, larger epsilons of the same attack
    are measured again, since they went on from the images of the smaller one.

    Args:
        folder: The run folder.
        names: Each an attack or certificate (``pgd-20-linf``), one at an epsilon (``pgd-20-linf@0.3``), a
            meter (``NoiseCurve``) or a measure (``accuracy under noise``).
        overrides: ``--key=value`` of its recipe, such as ``--data.root=PATH``.
        command: The command, for ``environment.json``.
        on_batch: Called with how many examples are done, of how many.

    Raises:
        RunFolderError: nothing was measured, or nothing of a name, or it comes of what stays.
        WithstandError: of the part that failed; what was measured before stays.
    """
    run, own = open_run(folder)
    former, known = former_evaluation(run), read_results(run)
    if former is None or known is None:
        raise RunFolderError(f"{folder} holds no results of which any could be forgotten.")
    names, measured = [_spelled(name) for name in names], _Measured(former, known[0])
    for name in names:
        measured.require(name, figures_of(known[1]))
    settings = {**former.values["evaluation"], "meters": measured.without(names)}
    left = _with(run, settings, overrides)
    stays = _Measured(left, known[0]).columns
    if back := next((name for name in names if name in stays), None):
        raise RunFolderError(
            f"{back} is run wherever something is certified in that norm at that epsilon: forget that "
            "certificate with it."
        )
    asked = _Measured(own, known[0])
    if any(name in asked.parts for name in names):  # else the next evaluation would bring it back
        write_recipe(run, _with(run, {"meters": asked.without(names)}, ()))
    evaluation = measure_all(run, left, pairs_of(left), on_batch)
    note_command(run, command)
    return evaluation


def figures_of(table: pd.DataFrame) -> dict[str, None]:
    """What a table of measurements holds: attacks and certificates, these at each epsilon, and measures."""
    names: dict[str, None] = {}
    for measure, by, level in table[["measure", "by", "level"]].itertuples(index=False):
        budgets = [by, column(by, level)] if measure in (ATTACKED, CERTIFIED) else []
        names |= dict.fromkeys([*budgets, measure])
    return names


def _spelled(name: str) -> str:
    """A name with its epsilon as columns have it: ``pgd-20-linf@0.0313725`` for ``pgd-20-linf@8/255``."""
    before, at, after = name.rpartition("@")
    epsilon = load_yaml(after) if at else None
    return column(before, float(epsilon)) if isinstance(epsilon, int | float) else name


def _with(run: RunFolder, evaluation: Mapping[str, Any], overrides: Sequence[str]) -> ParsedRecipe:
    changes = [f"--evaluation.{key}={flow(value)}" for key, value in evaluation.items()]
    return parse_recipe(run.recipe, [*overrides, *changes])


@dataclass(frozen=True)
class _Measured:
    """What the meters of a recipe measure.

    Args:
        recipe: With the evaluation that it asks for.
        results: Of the run, which say what the measures of each meter are.
    """

    recipe: ParsedRecipe
    results: Results

    @cached_property
    def parts(self) -> dict[str, list[_Part]]:
        """Every name that something can be forgotten by -> what it is of."""
        parts: dict[str, list[_Part]] = {}
        for number, (meter, _) in enumerate(pairs_of(self.recipe)):
            plans = self._plans[number]
            for place, plan in enumerate(plans):
                name = self._name(plan)
                parts.setdefault(name, []).append(_Part(number, place))
                for epsilon in plan.epsilons:
                    parts.setdefault(column(name, epsilon), []).append(_Part(number, place, epsilon))
            kinds = {ATTACKED if isinstance(plan, AttackPlan) else CERTIFIED for plan in plans}
            own = [] if plans else [meter.name, *self.results.measures.get(meter.name, [])]
            for name in dict.fromkeys([type(meter).__name__, *own, *sorted(kinds)]):
                parts.setdefault(name, []).append(_Part(number))
        return parts

    def require(self, name: str, in_table: Collection[str]) -> None:
        """Accepts what something can be forgotten by.

        Raises:
            RunFolderError: it is nothing, or is measured always, or with other things.
        """
        if name in self.parts:
            return
        if name in in_table:
            raise RunFolderError(
                f"{name!r} is measured always, or comes with other results, and cannot be forgotten by "
                f"itself. What can: {', '.join(self.parts) or 'nothing'}."
            )
        raise RunFolderError(f"Nothing that was measured is called {name!r}; {nearest(name, self.parts)}")

    def without(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """The meters as a recipe spells them, less what goes by any of the names."""
        gone = {part for name in names for part in self.parts.get(name, ())}
        left = []
        for number, (meter, plain) in enumerate(pairs_of(self.recipe)):
            of_meter = {part for part in gone if part.meter == number}
            if not of_meter:
                left.append(plain)
            elif _Part(number) not in of_meter:
                left += _less(meter, plain, self._plans[number], of_meter)
        return left

    @property
    def columns(self) -> set[str]:
        """All attacks, by themselves and with their epsilons; also those that certificates imply."""
        certificates = [plan for plan in self._all_plans if isinstance(plan, CertificatePlan)]
        attacks = merged_attacks(plan for plan in self._all_plans if isinstance(plan, AttackPlan))
        every = [*attacks, *default_plans(merged_certificates(certificates), attacks)]
        return {plan.name for plan in every} | {
            column(plan.name, at) for plan in every for at in plan.epsilons
        }

    @cached_property
    def _plans(self) -> list[list[AttackPlan | CertificatePlan]]:
        """Of each meter."""
        sources, is_random = RecipeSources(self.recipe.recipe), self.results.sampling is not None
        meters = [meter.resolved(sources) for meter in self.recipe.recipe.evaluation.meters]
        return [
            [*meter.attack_plans(sources.info, is_random=is_random), *meter.certificate_plans()]
            for meter in meters
        ]

    @property
    def _all_plans(self) -> list[AttackPlan | CertificatePlan]:
        return [plan for plans in self._plans for plan in plans]

    def _name(self, plan: AttackPlan | CertificatePlan) -> str:
        """As results have it, where several attacks have one name by themselves."""
        if isinstance(plan, CertificatePlan):
            return plan.name
        return self._names[identity(plan.attack.at(0.0))]

    @cached_property
    def _names(self) -> dict[str, str]:
        merged = merged_attacks(plan for plan in self._all_plans if isinstance(plan, AttackPlan))
        return {identity(plan.attack.at(0.0)): plan.name for plan in merged}


def _less(
    meter: Meter, plain: dict[str, Any], plans: Sequence[AttackPlan | CertificatePlan], gone: set[_Part]
) -> list[dict[str, Any]]:
    """A meter without some of its attacks or epsilons: one for all attacks that keep the same epsilons."""
    items = _ITEMS.get(type(meter))
    if items is None and not isinstance(meter, Certificate):
        raise RunFolderError(f"{type(meter).__name__} is forgotten as a whole: name it so.")
    settings, (number, *_) = plain["init_args"], next(iter(gone))
    places: dict[tuple[float, ...], list[int]] = {}
    for place, plan in enumerate(plans):
        is_whole = _Part(number, place) in gone
        left = () if is_whole else tuple(at for at in plan.epsilons if _Part(number, place, at) not in gone)
        places.setdefault(left, []).append(place)
    return [
        {
            **plain,
            "init_args": {
                **settings,
                "epsilons": list(epsilons),
                **({} if items is None else {items: [settings[items][place] for place in kept]}),
            },
        }
        for epsilons, kept in places.items()
        if epsilons
    ]
