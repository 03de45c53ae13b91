"""Puts together the table and the rest of the results of an evaluation, from the results of all batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from withstand.evaluation.attacking import ATTACKED_COUNT, LOST_COUNT, column
from withstand.evaluation.averaging import ScoringPlan
from withstand.evaluation.meter import Gathered, Meter, Subject
from withstand.evaluation.one_batch import BatchPlan
from withstand.evaluation.plans import (
    AttackPlan,
    CertificatePlan,
    WorstPlan,
    beyond_range,
    norm_name,
    worst_plans,
)
from withstand.evaluation.proofs import MARGIN, PRECISION, SECONDS, WITHDRAWN, Prover
from withstand.evaluation.red_flags import check_all, doubts
from withstand.evaluation.scoring import SplitScores
from withstand.evaluation.unanswered import unanswered_rows
from withstand.results import measurements
from withstand.results.measurements import Measurement, measured, radius_column, rounding_column, table_of
from withstand.results.results import (
    AttackInfo,
    CertificateInfo,
    Check,
    Results,
    StageCounts,
    StageInfo,
    Target,
)
from withstand.results.shares import share


def assemble(
    subject: Subject, batch_plan: BatchPlan, split_scores: SplitScores, once: Mapping[str, Any]
) -> tuple[pd.DataFrame, Results]:
    """The table of measurements, and what is no table.

    Args:
        subject: What was measured.
        batch_plan: What was measured of each batch.
        split_scores: The results of all batches.
        once: Name of a meter -> its result of the whole.
    """
    scoring_plan = batch_plan.scoring_plan
    certificates = [prover.plan for prover in batch_plan.provers]
    attacks = [_attack_info(plan, split_scores, scoring_plan) for plan in batch_plan.plans]
    attacks += [
        AttackInfo(plan.name, norm_name(plan.norm), f"Worst of {', '.join(plan.members)}, an example")
        for plan in worst_plans(batch_plan.plans)
    ]
    infos = [_certificate_info(prover, split_scores) for prover in batch_plan.provers]
    figures = list(
        _measurements(split_scores.rows, batch_plan.plans, certificates, scoring_plan.predictor.num_repeats)
    )
    figures += [
        Measurement(measurements.ROUNDING, info.name, info.norm, value=info.rounding)
        for info in infos
        if info.rounding is not None
    ]
    headlines = table_of(figures)
    attacked = _headline_attack(headlines, subject.info.num_classes)
    certified = _headline_certificate(headlines)
    parts: dict[str, Any] = {"warnings": unanswered_rows(split_scores.rows), "measures": {}}
    for meter in batch_plan.meters:
        counts, state = split_scores.counts.get(meter.name, {}), split_scores.state(meter.name)
        seen, noted = _attacked_states(meter, batch_plan.plans, split_scores), once.get(meter.name)
        gathered = Gathered(subject, split_scores.rows, counts, state, seen, noted, attacked, certified)
        summary = meter.summary(gathered)
        figures += summary.measurements
        parts["measures"][meter.name] = list(dict.fromkeys(row.measure for row in summary.measurements))
        for name, part in summary.parts.items():
            parts[name] = [*parts.get(name, []), *part] if isinstance(part, list) else part
    table = table_of(figures)
    checks: list[Check] = []
    warnings = [
        *parts.pop("warnings"),
        *doubts(split_scores.rows, table, [plan.name for plan in batch_plan.plans if plan.attack.is_masked]),
        *_withdrawals(certificates, split_scores),
    ]
    if batch_plan.plans:
        checks, failures = check_all(table, attacks, scoring_plan.sampling, len(split_scores.rows))
        warnings += failures
    warnings += beyond_range(batch_plan.plans, certificates, math.prod(subject.info.shape))
    warnings += scoring_plan.warnings
    return table, Results(
        dataset=subject.info.name,
        num_examples=len(split_scores.rows),
        num_classes=subject.info.num_classes,
        attacks=attacks,
        certificates=infos,
        checks=checks,
        warnings=list(dict.fromkeys(warnings)),
        sampling=scoring_plan.sampling,
        sections=list(dict.fromkeys(meter.section for meter in batch_plan.meters if meter.section)),
        **parts,
    )


def _measurements(
    rows: pd.DataFrame, plans: Sequence[AttackPlan], certificates: Sequence[CertificatePlan], draws: int
) -> Iterable[Measurement]:
    """Clean accuracy, and that of all attacks and certificates at their budgets."""
    yield measured(measurements.CLEAN, share(rows["clean"], draws))
    every: list[AttackPlan | WorstPlan] = [*plans, *worst_plans(plans)]
    for attack in every:
        norm = norm_name(attack.norm)
        for epsilon in attack.epsilons:
            accuracy = share(rows[column(attack.name, epsilon)], draws)
            yield measured(measurements.ATTACKED, accuracy, by=attack.name, norm=norm, level=epsilon)
    for plan in certificates:
        norm = norm_name(plan.norm)
        for epsilon in plan.epsilons:
            accuracy = share(rows[column(plan.name, epsilon)])
            yield measured(measurements.CERTIFIED, accuracy, by=plan.name, norm=norm, level=epsilon)
        if radius_column(plan.name) in rows:
            radii = rows[radius_column(plan.name)]
            yield Measurement(measurements.MEAN_RADIUS, plan.name, norm, value=float(radii.mean()))
            yield Measurement(measurements.MEDIAN_RADIUS, plan.name, norm, value=float(radii.median()))
            yield Measurement(measurements.LARGEST_RADIUS, plan.name, norm, value=float(radii.max()))


def _attack_info(plan: AttackPlan, split_scores: SplitScores, scoring_plan: ScoringPlan) -> AttackInfo:
    """An attack; with several stages also how many examples each attacked and broke, at each budget."""
    stages, draws = plan.attack.stages, scoring_plan.predictor.num_repeats
    if len(stages) == 1:
        return AttackInfo(plan.name, norm_name(plan.norm), plan.attack.describe())
    counts = []
    for epsilon in plan.epsilons:
        counted = split_scores.counts[plan.target(epsilon)]
        # Where answers are drawn, luck alone may give back what was taken.
        broken = [max(0, round(int(lost) / draws)) for lost in counted[LOST_COUNT]]
        counts.append(StageCounts(epsilon, [int(attacked) for attacked in counted[ATTACKED_COUNT]], broken))
    infos = [StageInfo(stage.name, stage.kind, stage.describe()) for stage in stages]
    return AttackInfo(plan.name, norm_name(plan.norm), plan.attack.describe(), infos, counts)


def _certificate_info(prover: Prover, split_scores: SplitScores) -> CertificateInfo:
    """A certificate, what it cost, and in which arithmetic it holds."""
    plan = prover.plan
    rows, state = split_scores.rows, split_scores.state(plan.name)
    rounding = rows[rounding_column(plan.name)].to_numpy(np.float64)
    is_finite = np.isfinite(rounding)
    largest = float(rounding[is_finite].max()) if is_finite.any() else None
    limits = 2 * np.where(is_finite, largest or 0.0, np.inf)[:, None]
    is_certified = rows[[column(plan.name, epsilon) for epsilon in plan.epsilons]].to_numpy() > 0
    is_close = is_certified & ~(state[MARGIN] >= limits)  # also those of unknown margin
    precision = " and ".join(dict.fromkeys(state[PRECISION].tolist()))
    words = f"Proven in exact arithmetic, by bounds in float64; the model runs in {precision}."
    if largest is not None:
        words += f" There its logits of clean images differ by at most {largest:.2g} from those in float64."
    if number := int((~is_finite).sum()):
        words += f" Of {number} of {len(rounding)} images a logit is NaN, or infinite in {precision} alone."
    if total := int(is_certified.sum()):
        number = int(is_close.sum())
        below = f"{number} may not hold in {precision}, being" if number else "none is"
        words += (
            f" Of {total} certified margins, counted at each epsilon, {below} below twice that difference."
        )
    norm = norm_name(plan.norm)
    seconds = float(state[SECONDS].sum()) / len(rows)
    description = plan.description
    if prover.left_out:
        description += f". Left out were {prover.left_out}"
    return CertificateInfo(plan.name, norm, plan.method, description, precision, largest, words, seconds)


def _attacked_states(
    meter: Meter, plans: Sequence[AttackPlan], split_scores: SplitScores
) -> dict[Target, dict[str, Any]]:
    if not meter.needs.attacked_images:
        return {}
    targets = [plan.target(epsilon) for plan in plans for epsilon in plan.epsilons]
    return {target: split_scores.state(target, f"{meter.name}/") for target in targets}


def headline_epsilon(attacked: pd.DataFrame, num_classes: int) -> float:
    """The largest budget of the first attack at which the model does better than chance.

    Args:
        attacked: The rows of the table of attacked accuracy, at least one.
        num_classes: Of the data.
    """
    first = attacked[attacked["by"] == attacked["by"].iloc[0]]
    better = first[first["value"] > 1 / num_classes]
    return float(better["level"].max() if len(better) else first["level"].iloc[0])


def _headline_attack(table: pd.DataFrame, num_classes: int) -> Target | None:
    """The strongest attack in the first attack's norm, at that budget; the worst of several is no attack."""
    attacked = table[(table["measure"] == measurements.ATTACKED) & ~table["by"].str.startswith("worst-")]
    if attacked.empty:
        return None
    norm, epsilon = attacked["norm"].iloc[0], headline_epsilon(attacked, num_classes)
    at_it = attacked[(attacked["norm"] == norm) & (attacked["level"] == epsilon)]
    return Target(at_it.sort_values(["value", "by"])["by"].iloc[0], norm, epsilon)


def _headline_certificate(table: pd.DataFrame) -> Target | None:
    """The certificate that proves most, at the smallest budget above 0."""
    proven = table[(table["measure"] == measurements.CERTIFIED) & (table["level"] > 0)]
    if proven.empty:
        return None
    best = proven.sort_values(["level", "value", "by", "norm"], ascending=[True, False, False, False]).iloc[0]
    return Target(best["by"], best["norm"], float(best["level"]))


def _withdrawals(plans: Sequence[CertificatePlan], split_scores: SplitScores) -> list[str]:
    """Warnings of certified examples that rounding alone turned wrong."""
    withdrawn = {plan.name: int(split_scores.counts[plan.name][WITHDRAWN][0]) for plan in plans}
    return [
        f"Rounding: {number} {'example' if number == 1 else 'examples'} proven by {name} in exact arithmetic "
        f"{'is' if number == 1 else 'are'} wrong in the model's own precision, clean or under an attack, "
        f"though not in float64, and so {'counts' if number == 1 else 'count'} as not certified."
        for name, number in withdrawn.items()
        if number
    ]
