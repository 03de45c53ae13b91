"""Puts together what ``metrics.json`` holds, from what all batches gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from withstand.dataset_info import DatasetInfo
from withstand.evaluation.calibration import calibration
from withstand.evaluation.certificate import CertificatePlan
from withstand.evaluation.checks import check_all, failures
from withstand.evaluation.classes import Telling, class_accuracies, confusion
from withstand.evaluation.scoring import Scored, Wanted
from withstand.evaluation.summary import summarise

__all__ = ["assemble", "telling_epsilon"]

_WORST = "worst-"


def assemble(
    info: DatasetInfo,
    scored: Scored,
    wanted: Wanted,
    proofs: Sequence[CertificatePlan],
    grey: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The entries of ``metrics.json``.

    Args:
        info: Of the data.
        scored: What all batches gave.
        wanted: What was to be found out.
        proofs: What was certified.
        grey: What withstood a budget that allows everything, one entry a norm.
    """
    rows, judging = scored.rows, wanted.judging
    draws = judging.judge.num_repeats
    found: dict[str, Any] = {
        "schema": 1,
        "dataset": info.name,
        "num_examples": len(rows),
        "num_classes": info.num_classes,
        **summarise(rows, wanted.plans, proofs, scored.withdrawn, scored.counts, draws=draws),
        "calibration": calibration(rows),
    }
    if judging.entry is not None:
        found["sampling"] = judging.entry
    found |= {each.entry: each.summary(rows, scored.counts[each.entry]) for each in wanted.meters}
    attacked, certified = _telling_attack(found), _telling_certificate(found)
    found["classes"] = class_accuracies(rows, info.class_names, attacked, certified, draws)
    found["confusion"] = confusion(rows, info.class_names, attacked)
    if wanted.plans:
        checks = check_all(found, grey, is_random=judging.judge.is_random)
        found["checks"] = [each.entry() for each in checks]
        found["warnings"] += failures(checks)
    found["warnings"] = list(dict.fromkeys([*found["warnings"], *judging.warnings]))
    return found


def telling_epsilon(metrics: Mapping[str, Any]) -> float:
    """The largest budget of the first attack at which the model does better than chance."""
    curve = metrics["attacks"][0]["curve"]
    better = [point["epsilon"] for point in curve if point["accuracy"] > 1 / metrics["num_classes"]]
    return float(max(better, default=curve[0]["epsilon"]))


def _telling_attack(metrics: Mapping[str, Any]) -> Telling | None:
    """The strongest attack in the first attack's norm, at that budget; the worst of several is no attack."""
    if not metrics["attacks"]:
        return None
    norm, epsilon = metrics["attacks"][0]["norm"], telling_epsilon(metrics)
    at_it = [
        (point["accuracy"], attack["name"])
        for attack in metrics["attacks"]
        if attack["norm"] == norm and not attack["name"].startswith(_WORST)
        for point in attack["curve"]
        if point["epsilon"] == epsilon
    ]
    return Telling(min(at_it)[1], norm, epsilon)


def _telling_certificate(metrics: Mapping[str, Any]) -> Telling | None:
    """The certificate that proves most, at the smallest budget above 0."""
    points = [
        (-point["epsilon"], point["accuracy"], each["name"], each["norm"])
        for each in metrics["certificates"]
        for point in each["curve"]
        if point["epsilon"] > 0
    ]
    if not points:
        return None
    negative, _, name, norm = max(points)
    return Telling(name, norm, -negative)
