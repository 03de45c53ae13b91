"""From rows to shares with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from withstand.evaluation.certificate import CertificatePlan
from withstand.evaluation.rows import CLEAN, AttackPlan, column, worst_plans
from withstand.run_folder import radius_column

__all__ = [
    "attack_summary",
    "certificate_summary",
    "share",
    "summarise",
    "warnings_of",
    "withdrawal_warnings",
]

_CONFIDENCE = 0.95


def share(outcomes: Sequence[int] | np.ndarray[Any, Any] | pd.Series[Any]) -> dict[str, float | int]:
    """The share of ones among outcomes, with its exact (Clopper-Pearson) 95 % interval.

    Args:
        outcomes: Zeros and ones, at least one.

    Returns:
        ``accuracy``, ``lower``, ``upper`` in [0, 1], and the counts ``correct`` and ``total``.
    """
    correct, total = int(np.sum(np.asarray(outcomes))), len(outcomes)
    interval = binomtest(correct, total).proportion_ci(confidence_level=_CONFIDENCE, method="exact")
    return {
        "accuracy": correct / total,
        "lower": float(interval.low),
        "upper": float(interval.high),
        "correct": correct,
        "total": total,
    }


def summarise(
    rows: pd.DataFrame,
    plans: Sequence[AttackPlan],
    certificates: Sequence[CertificatePlan] = (),
    withdrawn: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Any]:
    """The accuracies of an evaluation: clean, for each attack over its budgets, and certified.

    Args:
        rows: As ``rows.score_batch`` makes them, all batches together.
        plans: The attacks that were run.
        certificates: What was certified.
        withdrawn: Name of a certificate -> how many examples it lost to rounding.

    Returns:
        ``clean``, ``attacks``, ``certificates`` and ``warnings`` as ``metrics.json`` holds them.
    """
    attacks = [attack_summary(rows, plan) for plan in plans]
    attacks += [
        _attack(
            rows, worst.name, worst.norm, worst.epsilons, f"Worst of {', '.join(worst.members)}, an example"
        )
        for worst in worst_plans(plans)
    ]
    return {
        "clean": share(rows[CLEAN]),
        "attacks": attacks,
        "certificates": [certificate_summary(rows, plan) for plan in certificates],
        "warnings": [*warnings_of(rows, plans), *withdrawal_warnings(withdrawn)],
    }


def attack_summary(rows: pd.DataFrame, plan: AttackPlan) -> dict[str, Any]:
    """One entry of ``attacks``."""
    return _attack(rows, plan.name, plan.norm, plan.epsilons, plan.attack.for_evaluation().describe())


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
    rows: pd.DataFrame, name: str, norm: float | None, epsilons: Sequence[float], description: str
) -> dict[str, Any]:
    return {
        "name": name,
        "norm": "none" if norm is None else f"{norm:g}",
        "description": description,
        "curve": _curve(rows, name, epsilons),
    }


def _curve(rows: pd.DataFrame, name: str, epsilons: Sequence[float]) -> list[dict[str, float | int]]:
    return [{"epsilon": epsilon, **share(rows[column(name, epsilon)])} for epsilon in epsilons]


def warnings_of(rows: pd.DataFrame, plans: Sequence[AttackPlan]) -> list[str]:
    """What makes the figures doubtful, in words.

    Within linf 0.5 every image can be turned into the same grey one, so no classifier can truly
    be right on more than the largest class there.
    """
    largest_class = float(rows["label"].value_counts(normalize=True).max())
    found = []
    if rows["prediction"].nunique() == 1 < rows["label"].nunique():
        found.append(
            f"Constant answer: the model says class {rows['prediction'].iloc[0]} whatever it sees, so its "
            "accuracies are that class's share. Its training collapsed, or it is not trained."
        )
    for plan in plans:
        for epsilon in plan.epsilons:
            if plan.norm != math.inf or epsilon < 0.5:
                continue
            measured = share(rows[column(plan.name, epsilon)])
            if measured["lower"] > largest_class:
                found.append(
                    f"Masked gradients: {measured['accuracy']:.1%} of the images withstand {plan.name} "
                    f"at linf {epsilon:g}, where every image can be turned into the same grey one, so "
                    f"at most {largest_class:.1%} truly can. The attacked accuracies at smaller epsilon "
                    "are likely too high as well: attack with more restarts, other losses, or an attack "
                    "without gradients."
                )
    return found
