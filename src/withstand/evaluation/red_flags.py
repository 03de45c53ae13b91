"""The checks for false robustness: what would show that attacked accuracies are too high.

Carlini et al., "On evaluating adversarial robustness" (2019).

Pure functions of an evaluation's results. A check that was not run says why; one that failed is a warning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from withstand.attacks.suites import MORE_STEPS
from withstand.core.answers import NO_ANSWER
from withstand.core.writing import epsilon_text, percent
from withstand.evaluation.meters.gradient_checks import LARGEST_CLASS
from withstand.evaluation.meters.noise_curve import AGREEMENT_COLUMN
from withstand.results.measurements import (
    ATTACKED,
    CLEAN,
    LARGE_EPSILON,
    NON_FINITE_GRADIENTS,
    VANISHING_GRADIENTS,
)
from withstand.results.random_answers import Sampling
from withstand.results.results import AttackInfo, Check
from withstand.results.shares import share_of

_VANISHED = 0.05  # of the correctly classified examples: beyond this a loss is a poor guide
_BROKEN = 0.005  # of the examples: beyond this an attack does better than those before it
_LEAST_BROKEN = 2  # since one example may be luck
_MOST_STEPS = f"pgd-{MORE_STEPS}-"
_NO_SUITE = "Not run: evaluate with a suite of attacks, fast, standard or thorough."
_LARGE_EPSILON_LINF = 0.5  # of linf: within it every image can be turned into the same grey one

# Name of a check -> how the warning of one that failed begins.
_FAILURES = {
    "vanishing-gradients": "Masked gradients",
    "more-steps": "Attacks not settled",
    "black-box": "Masked gradients",
    "transfer": "Masked gradients",
    "large-epsilon": "Masked gradients",
    "above-clean": "Above clean",
    "random-answers": "Gradients not averaged",
}


def check_all(
    table: pd.DataFrame, attacks: Sequence[AttackInfo], sampling: Sampling | None, num_examples: int
) -> tuple[list[Check], list[str]]:
    """All checks of an evaluation that attacked, and the warnings of those that failed.

    Args:
        table: Its measurements.
        attacks: That were run.
        sampling: How answers are drawn; None where they are not.
        num_examples: That were scored.
    """
    is_random = sampling is not None
    checks = [
        _gradients(_of(table, VANISHING_GRADIENTS), _of(table, NON_FINITE_GRADIENTS)),
        _more_steps(_breaks(attacks, num_examples, "white-box", _MOST_STEPS), is_random=is_random),
        _stages_of(_breaks(attacks, num_examples, "black-box"), "black-box", is_random=is_random),
        _stages_of(_breaks(attacks, num_examples, "transfer"), "transfer", is_random=is_random),
        _large_epsilon(_of(table, LARGE_EPSILON)),
        _above_clean(_of(table, CLEAN).iloc[0], _of(table, ATTACKED)),
        _random_answers(sampling),
    ]
    warnings = [f"{_FAILURES[check.name]}: {check.finding}" for check in checks if check.passed is False]
    return checks, warnings


def _of(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    return table[table["measure"] == measure]


def _gradients(vanished: pd.DataFrame, broken: pd.DataFrame) -> Check:
    name, title = "vanishing-gradients", "Gradients can be followed"
    num_correct = int(vanished["total"].max()) if len(vanished) else 0
    if not num_correct:
        return Check(name, title, None, "Not run: no example is classified correctly.")
    shares = dict(zip(vanished["by"], vanished["value"], strict=True))
    entropy, margin = shares["cross-entropy"], shares["margin"]
    of = f"of {num_correct} correctly classified examples"
    if num_broken := int(broken["correct"].max()) if len(broken) else 0:
        finding = (
            f"at {num_broken} {of} a gradient with respect to the image is NaN or infinite, so attacks that "
            "follow gradients lose their way there, and what withstands them need not be robust. A root, a "
            "power or a logarithm of pixels that are 0 does this: keep its input away from 0 by a clamp, or "
            "attack without gradients."
        )
        return Check(name, title, False, finding)
    if margin > _VANISHED:
        finding = (
            f"at {percent(margin)} {of} the margin has no gradient with respect to the image, so attacks "
            "that follow gradients are blind there, and what withstands them is likely not robust. Rounding "
            "or thresholding of inputs, or a layer without a gradient, does this: attack through it "
            "(attacks.StraightThrough), or without gradients."
        )
    elif entropy > _VANISHED:
        finding = (
            f"at {percent(entropy)} {of} the cross-entropy has no gradient in this precision, most likely "
            "since the logits are large, so attacks that climb it are blind there. Go by attacks on the "
            "margin or the DLR loss, which the suites standard and thorough hold."
        )
    else:
        finding = f"without any gradient: cross-entropy {percent(entropy)}, margin {percent(margin)} {of}."
    return Check(name, title, max(entropy, margin) <= _VANISHED, finding)


class _Break(NamedTuple):
    """What one stage of a suite broke at one budget."""

    epsilon: float
    stage: str
    broken: int
    total: int

    @property
    def matters(self) -> bool:
        return self.broken >= max(_LEAST_BROKEN, _BROKEN * self.total)

    def __str__(self) -> str:
        at = epsilon_text(self.epsilon)
        proven = ", those that are proven left out," if self.stage.startswith("unproven-") else ""
        return f"{self.stage} broke {self.broken} of {self.total} examples{proven} at epsilon {at}"


def _breaks(attacks: Sequence[AttackInfo], total: int, kind: str, named: str = "") -> list[_Break]:
    """What the stages of a kind broke, of those whose name holds this: it may stand behind ``unproven-``."""
    return [
        _Break(counts.epsilon, stage.name, broken, total)
        for attack in attacks
        for counts in attack.counts
        for stage, broken in zip(attack.stages, counts.broken, strict=True)
        if stage.kind == kind and named in stage.name
    ]


def _worst(breaks: Sequence[_Break]) -> _Break:
    """What broke most; of those that broke as many, at the largest budget, where there is most to break."""
    return max(breaks, key=lambda entry: (entry.broken / entry.total, entry.epsilon))


def _more_steps(breaks: Sequence[_Break], *, is_random: bool) -> Check:
    name, title = "more-steps", "More steps and restarts break no more"
    if not breaks:
        return Check(name, title, None, "Not run: the suites standard and thorough try.")
    if is_random:
        reason = "Not run: answers are drawn, and the number of draws a gradient is what must settle."
        return Check(name, title, None, reason)
    worst = _worst(breaks)
    if worst.matters:
        finding = (
            f"{worst}, which all attacks before it had left. More steps or restarts may break more, so the "
            "attacked accuracies are likely still too high."
        )
    else:
        finding = f"the last and longest attack hardly mattered: {worst}, the most at any budget."
    return Check(name, title, not worst.matters, finding)


_KINDS = {
    "black-box": (
        "No attack without gradients beats those with them",
        "An attack that uses no gradients should not break what attacks with gradients miss",
        "the suite has no attack without gradients; standard and thorough do, where answers are not drawn.",
    ),
    "transfer": (
        "No other model's adversarial images do better",
        "Another model's adversarial images should not do better than the model's own",
        "name other runs in the suite's transfer_from.",
    ),
}


def _stages_of(breaks: Sequence[_Break], kind: str, *, is_random: bool) -> Check:
    title, should, remedy = _KINDS[kind]
    if not breaks:
        return Check(kind, title, None, f"Not run: {remedy}")
    if is_random:
        return Check(kind, title, None, "Not decided: answers are drawn, and any attack breaks some by luck.")
    worst = _worst(breaks)
    finding = f"{worst} that the attacks before it had left. {should}: gradients are likely masked there."
    if not worst.matters:
        finding = f"{worst}, the most at any budget, that the attacks before it had left."
    return Check(kind, title, not worst.matters, finding)


def _large_epsilon(table: pd.DataFrame) -> Check:
    is_half = bool((table["level"] == _LARGE_EPSILON_LINF).all())
    name, at = "large-epsilon", "epsilon 0.5" if is_half else "a very large epsilon"
    title = f"Accuracy at {at} is at chance"
    if table.empty:
        return Check(name, title, None, _NO_SUITE)
    findings, passed = [], True
    for (norm, epsilon), of_norm in table.groupby(["norm", "level"], sort=False):
        is_largest = of_norm["by"] == LARGEST_CLASS
        robust, largest = (int(of_norm[rows]["correct"].iloc[0]) for rows in (~is_largest, is_largest))
        total = int(of_norm["total"].iloc[0])
        passed &= share_of(robust, total).lower <= largest / total
        findings.append(
            f"in l{norm} at epsilon {epsilon_text(float(str(epsilon)))}, {robust} of {total} examples "
            f"withstand PGD, and at most {largest} truly can, since every image can be turned into the same "
            "grey one"
        )
    end = " Gradients are masked, so attacked accuracies at smaller budgets are too high as well."
    return Check(name, title, passed, f"{'; '.join(findings)}.{'' if passed else end}")


def _above_clean(clean: pd.Series, attacked: pd.DataFrame) -> Check:
    name, title = "above-clean", "Accuracy under attack is not above clean accuracy"
    above = attacked[attacked["lower"] > clean["upper"]]
    if above.empty:
        return Check(name, title, True, f"none is above the clean {percent(clean['value'])}.")
    highest = above.loc[above["value"].idxmax()]
    finding = (
        f"{percent(highest['value'])} withstand {highest['by']} at epsilon {epsilon_text(highest['level'])}, "
        f"and {percent(clean['value'])} are correct without an attack. Something other than the attack "
        "changed the answers."
    )
    return Check(name, title, False, finding)


def _random_answers(sampling: Sampling | None) -> Check:
    name, title = "random-answers", "Answers that are drawn are averaged"
    if sampling is None:
        finding = "Not needed: the model answers the same when it is asked twice."
        return Check(name, title, None, finding)
    draws, sweep = sampling.attack_samples, sampling.sweep
    if draws is None:
        return Check(name, title, None, "Not run: no attack follows gradients.")
    if draws > 1:
        return Check(name, title, True, f"each attack step follows the gradient of {draws} draws.")
    if sweep is not None and sweep.has_settled:
        finding = (
            "each attack step follows a single draw, which suffices: of up to "
            f"{sweep.levels[-1].num_samples} draws none lowered the accuracy under {sweep.attack} by more "
            "than the tolerance."
        )
        return Check(name, title, True, finding)
    finding = (
        "each attack step follows a single draw, so the attacked accuracies are likely too high. Leave "
        "attack_samples out, and as many draws are averaged as suffice."
    )
    return Check(name, title, False, finding)


def doubts(rows: pd.DataFrame, table: pd.DataFrame, masked: Sequence[str] = ()) -> list[str]:
    """What makes the figures doubtful beside failed checks, in words.

    Within linf 0.5 every image can be turned into the same grey one, so no classifier can truly
    be correct on more than the largest class there.

    Args:
        rows: ``examples.csv``.
        table: The measurements.
        masked: Names of attacks that change some pixels only, of which the latter does not hold.
    """
    largest_class = float(rows["label"].value_counts(normalize=True).max())
    answers = rows["prediction"][rows["prediction"] != NO_ANSWER]
    warnings = [_constant_answer(rows, answers)] if answers.nunique() == 1 < rows["label"].nunique() else []
    attacked = _of(table, ATTACKED)
    attacked = attacked[(attacked["norm"] == "inf") & (attacked["level"] >= _LARGE_EPSILON_LINF)]
    is_whole = ~(attacked["by"].str.startswith("worst-") | attacked["by"].isin(masked))
    attacked = attacked[is_whole & (attacked["lower"] > largest_class)]
    warnings += [
        f"Masked gradients: {percent(value)} of the images withstand {by} at linf "
        f"{epsilon_text(level)}, where every image can be turned into the same grey one, so at most "
        f"{percent(largest_class)} truly can. The attacked accuracies at smaller epsilon are likely too high "
        "as well: attack with more restarts, other losses, or an attack without gradients."
        for by, level, value in zip(attacked["by"], attacked["level"], attacked["value"], strict=True)
    ]
    return warnings


def _constant_answer(rows: pd.DataFrame, answers: pd.Series) -> str:
    answer = f"Constant answer: the model predicts class {answers.iloc[0]}"
    reason = "Its training collapsed, or it is not trained."
    if AGREEMENT_COLUMN not in rows:
        return f"{answer} of every clean image, so its clean accuracy is that class's share. {reason}"
    if (rows[AGREEMENT_COLUMN] < 1).any():
        return f"{answer} of every image without noise, so its clean accuracy is that class's share. {reason}"
    return (
        f"{answer} whatever it sees, so its accuracies are that class's share, and that its answers stay "
        f"the same under noise is no merit. {reason}"
    )
