"""From rows to shares with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import beta

from withstand.evaluation.certificate import CertificatePlan
from withstand.evaluation.meter import Counts
from withstand.evaluation.rows import ATTACKED, CLEAN, FELLED, AttackPlan, WorstPlan, column, worst_plans
from withstand.run_folder import radius_column

__all__ = [
    "NOISE_ACCURACY",
    "NOISE_AGREEMENT",
    "attack_summary",
    "certificate_summary",
    "share",
    "share_of",
    "summarise",
    "warnings_of",
    "withdrawal_warnings",
]

NOISE_ACCURACY = "noise-accuracy"
"""The column with the share of noise levels and draws at which an example is right."""

NOISE_AGREEMENT = "noise-agreement"
"""The column with the share of them at which its prediction is that without noise."""

_TAIL = 0.025  # on either side of a 95 % interval


def share(
    outcomes: Sequence[float] | np.ndarray[Any, Any] | pd.Series[Any], draws: int = 1
) -> dict[str, float | int]:
    """The share of ones among outcomes, with its exact (Clopper-Pearson) 95 % interval.

    Args:
        outcomes: Zeros and ones, at least one; or, of several draws each, the shares of ones.
        draws: Outcomes an example.

    Returns:
        ``accuracy``, ``lower``, ``upper`` in [0, 1], and the counts ``correct`` and ``total``.
    """
    return share_of(round(float(np.sum(np.asarray(outcomes))) * draws), len(outcomes) * draws, draws)


def share_of(correct: int, total: int, draws: int = 1) -> dict[str, float | int]:
    """A share with its exact (Clopper-Pearson) 95 % interval.

    Draws of one example say little of other examples, so the interval is that of as many outcomes as
    there are examples, which is never too narrow.

    Args:
        correct: How many ones.
        total: Of how many outcomes, at least one.
        draws: Outcomes an example.

    Returns:
        As ``share``.
    """
    right, wrong = correct / draws, (total - correct) / draws
    return {
        "accuracy": correct / total,
        "lower": float(beta.ppf(_TAIL, right, wrong + 1)) if correct else 0.0,
        "upper": float(beta.ppf(1 - _TAIL, right + 1, wrong)) if correct < total else 1.0,
        "correct": correct,
        "total": total,
    }


def summarise(
    rows: pd.DataFrame,
    plans: Sequence[AttackPlan],
    certificates: Sequence[CertificatePlan] = (),
    withdrawn: Mapping[str, int] = MappingProxyType({}),
    counts: Mapping[str, Counts] = MappingProxyType({}),
    *,
    draws: int = 1,
) -> dict[str, Any]:
    """The accuracies of an evaluation: clean, for each attack over its budgets, and certified.

    Args:
        rows: As ``rows.score_batch`` makes them, all batches together.
        plans: The attacks that were run.
        certificates: What was certified.
        withdrawn: Name of a certificate -> how many examples it lost to rounding.
        counts: Column of an attack at a budget -> what was counted of its stages.
        draws: How often each image was predicted.

    Returns:
        ``clean``, ``attacks``, ``certificates`` and ``warnings`` as ``metrics.json`` holds them.
    """
    attacks = [attack_summary(rows, plan, counts, draws) for plan in plans]
    for worst in worst_plans(plans):
        curve = _curve(rows, worst.name, worst.epsilons, draws)
        attacks.append(_attack(worst, f"Worst of {', '.join(worst.members)}, an example", curve))
    return {
        "clean": share(rows[CLEAN], draws),
        "attacks": attacks,
        "certificates": [certificate_summary(rows, plan) for plan in certificates],
        "warnings": [*warnings_of(rows, plans, draws), *withdrawal_warnings(withdrawn)],
    }


def attack_summary(
    rows: pd.DataFrame,
    plan: AttackPlan,
    counts: Mapping[str, Counts] = MappingProxyType({}),
    draws: int = 1,
) -> dict[str, Any]:
    """One entry of ``attacks``; where images were predicted several times, of all these predictions.

    Of an attack with several stages also which they are, and at each budget how many examples each was run on
    and felled.
    """
    curve: list[dict[str, Any]] = list(_curve(rows, plan.name, plan.epsilons, draws))
    entry = _attack(plan, plan.form.describe(), curve)
    stages = plan.form.stages
    if len(stages) == 1 or not all(column(plan.name, epsilon) in counts for epsilon in plan.epsilons):
        return entry
    names = [stage.name for stage in stages]
    for point in curve:
        found = counts[column(plan.name, point["epsilon"])]
        pairs = zip(names, found[ATTACKED], found[FELLED], strict=True)
        point["stages"] = [
            # Where answers are drawn, luck alone may give back what was taken.
            {"name": name, "num_attacked": int(attacked), "num_felled": max(0, round(felled / draws))}
            for name, attacked, felled in pairs
        ]
    kinds = [{"name": each.name, "kind": each.kind, "description": each.describe()} for each in stages]
    return {**entry, "stages": kinds}


def certificate_summary(rows: pd.DataFrame, plan: CertificatePlan) -> dict[str, Any]:
    """One entry of ``certificates``; with a summary of the radii where the rows have them."""
    settings = plan.certificate
    summary: dict[str, Any] = {
        "name": plan.name,
        "norm": f"{settings.norm:g}",
        "method": settings.method,
        "description": settings.describe(),
        "curve": _curve(rows, plan.name, plan.epsilons),
    }
    if radius_column(plan.name) in rows:
        radii = rows[radius_column(plan.name)]
        summary["radius"] = {
            "mean": float(radii.mean()),
            "median": float(radii.median()),
            "largest": float(radii.max()),
        }
    return summary


def withdrawal_warnings(withdrawn: Mapping[str, int]) -> list[str]:
    """What is said of certified examples that rounding alone turned wrong.

    Args:
        withdrawn: Name of a certificate -> how many.
    """
    return [
        f"Rounding: {number} {'example' if number == 1 else 'examples'} proven by {name} in exact arithmetic "
        "fell to an attack in the model's own precision, though not in float64, and so "
        f"{'counts' if number == 1 else 'count'} as not certified."
        for name, number in withdrawn.items()
        if number
    ]


def _attack(
    plan: AttackPlan | WorstPlan, description: str, curve: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "name": plan.name,
        "norm": "none" if plan.norm is None else f"{plan.norm:g}",
        "description": description,
        "curve": list(curve),
    }


def _curve(
    rows: pd.DataFrame, name: str, epsilons: Sequence[float], draws: int = 1
) -> list[dict[str, float | int]]:
    return [{"epsilon": epsilon, **share(rows[column(name, epsilon)], draws)} for epsilon in epsilons]


def warnings_of(rows: pd.DataFrame, plans: Sequence[AttackPlan], draws: int = 1) -> list[str]:
    """What makes the figures doubtful, in words.

    Within linf 0.5 every image can be turned into the same grey one, so no classifier can truly
    be right on more than the largest class there.
    """
    largest_class = float(rows["label"].value_counts(normalize=True).max())
    found = []
    if rows["prediction"].nunique() == 1 < rows["label"].nunique():
        found.append(_constant_answer(rows))
    for plan in plans:
        for epsilon in plan.epsilons:
            if plan.norm != math.inf or epsilon < 0.5:
                continue
            measured = share(rows[column(plan.name, epsilon)], draws)
            if measured["lower"] > largest_class:
                found.append(
                    f"Masked gradients: {measured['accuracy']:.1%} of the images withstand {plan.name} "
                    f"at linf {epsilon:g}, where every image can be turned into the same grey one, so "
                    f"at most {largest_class:.1%} truly can. The attacked accuracies at smaller epsilon "
                    "are likely too high as well: attack with more restarts, other losses, or an attack "
                    "without gradients."
                )
    return found


def _constant_answer(rows: pd.DataFrame) -> str:
    answer = f"Constant answer: the model says class {rows['prediction'].iloc[0]}"
    reason = "Its training collapsed, or it is not trained."
    if NOISE_AGREEMENT not in rows:
        return f"{answer} whatever it sees, so its accuracies are that class's share. {reason}"
    if (rows[NOISE_AGREEMENT] < 1).any():
        return f"{answer} of every image without noise, so its clean accuracy is that class's share. {reason}"
    return (
        f"{answer} whatever it sees, so its accuracies are that class's share, and that its answers stay "
        f"the same under noise is no merit. {reason}"
    )
