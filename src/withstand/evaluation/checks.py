"""The checks for false robustness: what would show that attacked accuracies are too high.

Carlini et al., "On evaluating adversarial robustness" (2019).

Pure functions of what an evaluation found. A check that was not run says why; one that failed is a warning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from withstand.attacks.suites import MORE_STEPS
from withstand.evaluation.summary import share_of

__all__ = ["Check", "check_all", "failures"]

_VANISHED = 0.05  # of the right examples: beyond this a loss is a poor guide
_FELLED = 0.005  # of the examples: beyond this an attack does better than those before it
_LEAST_FELLED = 2  # since one example may be luck
_MOST_STEPS = f"pgd-{MORE_STEPS}-"
_NO_SUITE = "Not run: evaluate with a suite of attacks, fast, standard or thorough."


class Check(NamedTuple):
    """One check.

    Attributes:
        name: Short.
        title: What holds where it is passed.
        passed: None where it was not run.
        finding: What was found, or why it was not run.
        failure: How a warning of it begins.
    """

    name: str
    title: str
    passed: bool | None
    finding: str
    failure: str

    def entry(self) -> dict[str, Any]:
        """As ``metrics.json`` holds it."""
        return {"name": self.name, "title": self.title, "passed": self.passed, "finding": self.finding}


def failures(checks: Sequence[Check]) -> list[str]:
    """The warnings of those that failed."""
    return [f"{each.failure}: {each.finding}" for each in checks if each.passed is False]


def check_all(
    metrics: Mapping[str, Any], grey: Sequence[Mapping[str, Any]], *, is_random: bool
) -> list[Check]:
    """All checks of an evaluation that attacked.

    Args:
        metrics: Its ``num_examples``, ``clean``, ``attacks``, ``gradients`` and ``sampling``.
        grey: What withstood a budget that allows everything, one entry a norm.
        is_random: Whether the model draws its answers.
    """
    return [
        _gradients(metrics.get("gradients")),
        _more_steps(_falls(metrics, "white-box", _MOST_STEPS), is_random=is_random),
        _stages_of(_falls(metrics, "black-box"), "black-box", is_random=is_random),
        _stages_of(_falls(metrics, "transfer"), "transfer", is_random=is_random),
        _grey(grey),
        _above_clean(metrics),
        _random_answers(metrics.get("sampling"), is_random=is_random),
    ]


def _gradients(found: Mapping[str, Any] | None) -> Check:
    title, failure = "Gradients do not vanish", "Masked gradients"
    if found is None or not found["num_examples"]:
        return Check("vanishing-gradients", title, None, "Not run: no example is right.", failure)
    entropy, margin = found["cross_entropy"], found["margin"]
    of = f"of {found['num_examples']} right examples"
    if margin > _VANISHED:
        finding = (
            f"at {margin:.1%} {of} the margin has no gradient with respect to the image, so attacks that "
            "follow gradients are blind there, and what withstands them is likely not robust. Rounding or "
            "thresholding of inputs, or a layer without a gradient, does this: attack through a smooth "
            "stand-in, or without gradients."
        )
    elif entropy > _VANISHED:
        finding = (
            f"at {entropy:.1%} {of} the cross-entropy has no gradient in this precision, most likely since "
            "the logits are large, so attacks that climb it are blind there. Go by attacks on the margin or "
            "the DLR loss, which the suites standard and thorough hold."
        )
    else:
        finding = f"without any gradient: cross-entropy {entropy:.1%}, margin {margin:.1%} {of}."
    return Check("vanishing-gradients", title, max(entropy, margin) <= _VANISHED, finding, failure)


class _Fall(NamedTuple):
    """What one stage of a suite felled at one budget."""

    epsilon: float
    stage: str
    felled: int
    total: int

    @property
    def matters(self) -> bool:
        return self.felled >= max(_LEAST_FELLED, _FELLED * self.total)

    def __str__(self) -> str:
        return f"{self.stage} felled {self.felled} of {self.total} examples at epsilon {self.epsilon:.4g}"


def _falls(metrics: Mapping[str, Any], kind: str, named: str = "") -> list[_Fall]:
    """What the stages of a kind felled, of those whose name begins so."""
    return [
        _Fall(point["epsilon"], stage["name"], found["num_felled"], metrics["num_examples"])
        for attack in metrics["attacks"]
        for point in attack["curve"]
        for stage, found in zip(attack.get("stages", []), point.get("stages", []), strict=True)
        if stage["kind"] == kind and stage["name"].startswith(named)
    ]


def _more_steps(falls: Sequence[_Fall], *, is_random: bool) -> Check:
    name, title, failure = "more-steps", "More steps and restarts find no more", "Attacks not settled"
    if not falls:
        return Check(name, title, None, "Not run: the suites standard and thorough try.", failure)
    if is_random:
        reason = "Not run: answers are drawn, and the number of draws a gradient is what must settle."
        return Check(name, title, None, reason, failure)
    worst = max(falls, key=lambda fall: fall.felled / fall.total)
    if worst.matters:
        finding = (
            f"{worst}, which all attacks before it had left. More steps or restarts may fell more, so the "
            "attacked accuracies are likely still too high."
        )
    else:
        finding = f"the last and longest attack hardly mattered: {worst}, the most at any budget."
    return Check(name, title, not worst.matters, finding, failure)


_KINDS = {
    "black-box": (
        "No attack without gradients beats those with them",
        "An attack that uses no gradients should not find what gradients miss",
        "the suite has no attack without gradients; standard and thorough do, where answers are not drawn.",
    ),
    "transfer": (
        "No other model's adversarial images do better",
        "Another model's adversarial images should not do better than the model's own",
        "name other runs in the suite's transfer_from.",
    ),
}


def _stages_of(falls: Sequence[_Fall], kind: str, *, is_random: bool) -> Check:
    title, should, remedy = _KINDS[kind]
    failure = "Masked gradients"
    if not falls:
        return Check(kind, title, None, f"Not run: {remedy}", failure)
    if is_random:
        return Check(
            kind, title, None, "Not judged: answers are drawn, and any attack fells some by luck.", failure
        )
    worst = max(falls, key=lambda fall: fall.felled / fall.total)
    if worst.matters:
        finding = f"{worst} that the attacks before it had left. {should}: gradients are likely masked there."
    else:
        finding = f"{worst}, the most at any budget, that the attacks before it had left."
    return Check(kind, title, not worst.matters, finding, failure)


def _grey(found: Sequence[Mapping[str, Any]]) -> Check:
    name, title = "huge-epsilon", "A budget that allows everything fells everything"
    if not found:
        return Check(name, title, None, _NO_SUITE, "Masked gradients")
    told, passed = [], True
    for each in found:
        lower = share_of(each["standing"], each["total"])["lower"]
        is_above = lower > each["largest_class"] / each["total"]
        passed &= not is_above
        told.append(
            f"in l{each['norm']} at epsilon {each['epsilon']:.4g}, {each['standing']} of {each['total']} "
            f"examples withstand PGD, and at most {each['largest_class']} truly can, since every image can "
            "be made the same grey one"
        )
    end = (
        ""
        if passed
        else " Gradients are masked, so attacked accuracies at smaller budgets are too high as well."
    )
    return Check(name, title, passed, f"{'; '.join(told)}.{end}", "Masked gradients")


def _above_clean(metrics: Mapping[str, Any]) -> Check:
    clean = metrics["clean"]
    above = [
        (each["name"], point)
        for each in metrics["attacks"]
        for point in each["curve"]
        if point["lower"] > clean["upper"]
    ]
    title, failure = "Accuracy under attack is not above clean accuracy", "Above clean"
    if not above:
        return Check("above-clean", title, True, f"none is above the clean {clean['accuracy']:.2%}.", failure)
    name, point = max(above, key=lambda pair: pair[1]["accuracy"])
    finding = (
        f"{point['accuracy']:.2%} withstand {name} at epsilon {point['epsilon']:.4g}, and "
        f"{clean['accuracy']:.2%} are right without an attack. Something other than the attack changed the "
        "answers."
    )
    return Check("above-clean", title, False, finding, failure)


def _random_answers(sampling: Mapping[str, Any] | None, *, is_random: bool) -> Check:
    name, title, failure = "random-answers", "Answers that are drawn are averaged", "Gradients not averaged"
    if not is_random or sampling is None:
        return Check(name, title, True, "the model answers the same when it is asked twice.", failure)
    draws = sampling["attack_samples"]
    if draws is None:
        return Check(name, title, None, "Not run: no attack follows gradients.", failure)
    if draws > 1:
        return Check(name, title, True, f"each attack step follows the gradient of {draws} draws.", failure)
    sweep = sampling.get("sweep")
    if sweep is not None and sweep["has_settled"]:
        most = sweep["levels"][-1]["num_samples"]
        finding = (
            f"each attack step follows a single draw, which suffices: of up to {most} draws none lowered the "
            f"accuracy under {sweep['attack']} by more than the tolerance."
        )
        return Check(name, title, True, finding, failure)
    finding = (
        "each attack step follows a single draw, so the attacked accuracies are likely too high. Leave "
        "attack_samples out, and as many draws are averaged as are found to suffice."
    )
    return Check(name, title, False, finding, failure)
