"""What runs can be held against each other in: the aspects of an evaluation, and each run's figure in one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from withstand.reporting.certified import Certified, most_certified, telling_certificates
from withstand.reporting.headlines import telling_attacks
from withstand.reporting.schema import Accuracy, Metrics, Noise
from withstand.reporting.summary import Attacked, strongest_at
from withstand.reporting.old_wording import budget, interval, noise_scale, norm_text, percent

__all__ = [
    "Aspect",
    "Measured",
    "aspects_of",
    "measure",
    "measured_interval",
    "measured_share",
    "targets_of",
    "with_interval",
]

Kind = Literal["clean", "attacked", "certified", "noise", "agreement", "corruptions"]


class Aspect(NamedTuple):
    """One thing that is measured of runs.

    Attributes:
        kind: Of the measure.
        title: What it is called: ``Attacked, ℓ∞ ε = 0.1``.
        norm: Of the attack or the certificate; of noise, over what it is summed up.
        epsilon: In [0, 1] units; 0 where there is none.
    """

    kind: Kind
    title: str
    norm: str = ""
    epsilon: float = 0.0


class Measured(NamedTuple):
    """A run's figure in an aspect, in [0, 1].

    Attributes:
        value: The larger, the better.
        lower: Of its 95 % interval; None where it has none.
        upper: Likewise.
        total: Of how many examples or draws.
        by: The attack or the certificate; empty where there is none.
        column: Of ``examples.csv``, whose mean the value is; empty where there is none.
    """

    value: float
    lower: float | None
    upper: float | None
    total: int
    by: str = ""
    column: str = ""


def aspects_of(measured: Sequence[Metrics]) -> list[Aspect]:
    """Every aspect in which one of several evaluations has a figure to show first."""
    attacked = targets_of([each for metrics in measured for each in telling_attacks(metrics)])
    certified = targets_of([each for metrics in measured for each in telling_certificates(metrics)])
    noises = [noise for metrics in measured if (noise := metrics.get("noise")) and noise["levels"]]
    scales = list(dict.fromkeys(map(noise_scale, noises)))
    return [
        *([Aspect("clean", "Clean")] if measured else []),
        *(Aspect("attacked", f"Attacked, {budget(*target)}", *target) for target in attacked),
        *(Aspect("certified", f"Certified, {budget(*target)}", *target) for target in certified),
        *(Aspect("noise", f"Accuracy under noise, {scale}", scale) for scale in scales),
        *(Aspect("agreement", f"Agreement area, {scale}", scale) for scale in scales),
        *(
            [Aspect("corruptions", "Accuracy under corruptions")]
            if any(metrics.get("corruptions") for metrics in measured)
            else []
        ),
    ]


def targets_of(shown: Sequence[Attacked | Certified]) -> list[tuple[str, float]]:
    """Every (norm, epsilon) to compare at, ascending; equal up to rounding counts once."""
    found: dict[tuple[str, float], tuple[str, float]] = {}
    for each in shown:
        epsilon = each.point["epsilon"]
        found.setdefault((norm_text(each.norm), round(epsilon, 6)), (each.norm, epsilon))
    return [found[key] for key in sorted(found)]


def measure(metrics: Metrics, aspect: Aspect) -> Measured | None:
    """A run's figure in an aspect; None where it was not measured."""
    return _MEASURES[aspect.kind](metrics, aspect)


def measured_share(each: Measured) -> str:
    """The value as per cent, with as many digits as its examples tell."""
    return percent(each.value, each.total)


def measured_interval(each: Measured) -> str:
    """The ends of its interval; empty where it has none."""
    if each.lower is None or each.upper is None:
        return ""
    return interval(
        Accuracy(accuracy=each.value, lower=each.lower, upper=each.upper, correct=0, total=each.total)
    )


def with_interval(each: Measured) -> str:
    """Value and interval as one text: ``98.1 % (97.1-98.9 %)`` with an en dash."""
    ends = measured_interval(each)
    return f"{measured_share(each)} ({ends})" if ends else measured_share(each)


def _of(accuracy: Accuracy, by: str = "", column: str = "") -> Measured:
    return Measured(accuracy["accuracy"], accuracy["lower"], accuracy["upper"], accuracy["total"], by, column)


def _clean(metrics: Metrics, aspect: Aspect) -> Measured:
    return _of(metrics["clean"], column="clean")


def _attacked(metrics: Metrics, aspect: Aspect) -> Measured | None:
    found = strongest_at(metrics, aspect.norm, aspect.epsilon)
    return found and _of(found.point, found.attack, _column(found.attack, found.point["epsilon"]))


def _certified(metrics: Metrics, aspect: Aspect) -> Measured | None:
    """The most that is certified, and by which certificate."""
    found = [
        (point, each["name"])
        for each in metrics.get("certificates", [])
        if norm_text(each["norm"]) == norm_text(aspect.norm)
        for point in each["curve"]
        if abs(point["epsilon"] - aspect.epsilon) < 1e-6
    ]
    if not found:
        return None
    point, name = max(found, key=lambda each: each[0]["accuracy"])
    legends = {each.point["epsilon"]: each.certificate for each in most_certified(metrics)}
    return _of(point, legends.get(point["epsilon"], name), _column(name, point["epsilon"]))


def _column(name: str, epsilon: float) -> str:
    """As the evaluation calls its columns."""
    return f"{name}@{epsilon:.6g}"


def _noise(metrics: Metrics, aspect: Aspect) -> Measured | None:
    noise = _noise_of(metrics, aspect)
    return noise and Measured(
        noise["mean"]["accuracy"], None, None, _num_draws(noise), column="noise-accuracy"
    )


def _agreement(metrics: Metrics, aspect: Aspect) -> Measured | None:
    noise = _noise_of(metrics, aspect)
    return noise and Measured(noise["area"]["agreement"], None, None, _num_draws(noise))


def _noise_of(metrics: Metrics, aspect: Aspect) -> Noise | None:
    noise = metrics.get("noise")
    return noise if noise and noise["levels"] and noise_scale(noise) == aspect.norm else None


def _num_draws(noise: Noise) -> int:
    return noise["levels"][0]["accuracy"]["total"]


def _corruptions(metrics: Metrics, aspect: Aspect) -> Measured | None:
    found = metrics.get("corruptions")
    if not found:
        return None
    return Measured(found["mean"], None, None, found["num_examples"], column="corruption-accuracy")


_MEASURES: Mapping[Kind, Callable[[Metrics, Aspect], Measured | None]] = {
    "clean": _clean,
    "attacked": _attacked,
    "certified": _certified,
    "noise": _noise,
    "agreement": _agreement,
    "corruptions": _corruptions,
}
