"""What the page says of certificates: curves, the figure at one epsilon, radii."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from withstand.reporting.schema import CertificateCurve, CurvePoint, Metrics
from withstand.reporting.summary import Curve, clean_point
from withstand.reporting.old_wording import cell, norm_text
from withstand.evaluation.measurements import radius_column

__all__ = [
    "Certified",
    "Radii",
    "certified_at",
    "certified_curve",
    "certified_curves",
    "describe",
    "legend",
    "most_certified",
    "telling_certificates",
]

Radii = Mapping[str, Sequence[float]]
"""Column of ``examples.csv`` -> the certified radius of each example."""

_MOST_STEPS = 250


class Certified(NamedTuple):
    """A certified accuracy and the certificate that proves it."""

    norm: str
    certificate: str
    method: str
    point: CurvePoint


def telling_certificates(metrics: Metrics) -> list[Certified]:
    """The certified accuracies to show first, for each norm in its order.

    Those at epsilons for which a certified figure is published; else the one at the largest epsilon
    at which more is certified than guessing gets right.
    """
    certificates = metrics.get("certificates", [])
    found = []
    for norm in dict.fromkeys(each["norm"] for each in certificates):
        measured = _best(metrics, norm)
        published = [each for each in measured if _is_published(metrics, each)]
        telling = [each for each in measured if each.point["accuracy"] > 1 / metrics["num_classes"]]
        found += published or telling[-1:] or measured[:1]
    return found


def certified_at(metrics: Metrics, norm: str, epsilon: float) -> Certified | None:
    """The most that is certified at one epsilon; None where nothing was certified there."""
    return next((each for each in most_certified(metrics) if _is_at(each, norm, epsilon)), None)


def most_certified(metrics: Metrics) -> list[Certified]:
    """The most that is certified at each norm and epsilon above 0."""
    signs = dict.fromkeys(each["norm"] for each in metrics.get("certificates", []))
    return [each for norm in signs for each in _best(metrics, norm)]


def _best(metrics: Metrics, norm: str) -> list[Certified]:
    """The most that is certified at each epsilon above 0 of a norm, ascending."""
    best: dict[float, Certified] = {}
    for each in _of_norm(metrics, norm):
        for point in each["curve"]:
            known = best.get(point["epsilon"])
            if known is None or point["accuracy"] > known.point["accuracy"]:
                best[point["epsilon"]] = Certified(norm, legend(each), _method(each), point)
    return [best[epsilon] for epsilon in sorted(best) if epsilon > 0]


def _of_norm(metrics: Metrics, norm: str) -> list[CertificateCurve]:
    return [each for each in metrics.get("certificates", []) if each["norm"] == norm]


def _is_at(each: Certified, norm: str, epsilon: float) -> bool:
    return norm_text(each.norm) == norm_text(norm) and abs(each.point["epsilon"] - epsilon) < 1e-6


def _is_published(metrics: Metrics, each: Certified) -> bool:
    return any(
        figure["measure"] == "certified"
        and _is_at(each, figure.get("norm") or "", figure.get("epsilon") or 0)
        for figure in metrics.get("published", [])
    )


def certified_curves(metrics: Metrics, norm: str, radii: Radii) -> list[Curve]:
    """One curve a certificate in a norm."""
    certificates = _of_norm(metrics, norm)
    names = [legend(each) for each in certificates]
    return [
        _curve(metrics, each, name if names.count(name) == 1 else each["name"], radii)
        for each, name in zip(certificates, names, strict=True)
    ]


def certified_curve(metrics: Metrics, norm: str, radii: Radii, label: str) -> list[Curve]:
    """A run's curve beside those of other runs, that of its tightest method; none where it has none."""
    certificates = _of_norm(metrics, norm)
    tightest = sorted(certificates, key=lambda each: each["method"] != "best")[:1]
    return [_curve(metrics, each, f"{label}, {legend(each)}", radii) for each in tightest]


def legend(certificate: CertificateCurve) -> str:
    """What a legend calls a certificate: ``certified (best)``."""
    return f"certified ({_method(certificate)})"


def _method(certificate: CertificateCurve) -> str:
    return certificate["method"].replace("_", " and ")


def describe(certificate: CertificateCurve) -> tuple[str, str]:
    """Name and description, with a summary of its radii where they are known."""
    radius = certificate.get("radius")
    summary = (
        f" Certified radius: mean {cell(radius['mean'])}, median {cell(radius['median'])}, "
        f"largest {cell(radius['largest'])}."
        if radius
        else ""
    )
    description = certificate.get("description") or ""
    return certificate["name"], f"{description}{'.' if description and summary else ''}{summary}".strip()


def _curve(metrics: Metrics, certificate: CertificateCurve, name: str, radii: Radii) -> Curve:
    points = sorted(certificate["curve"], key=lambda point: point["epsilon"])
    points = [clean_point(metrics), *(point for point in points if point["epsilon"] > 0)]
    by = ["clean", *[legend(certificate)] * (len(points) - 1)]
    steps = _steps(radii.get(radius_column(certificate["name"]), []))
    return Curve(name, points, by, steps, is_certified=True)


def _steps(radii: Sequence[float]) -> list[tuple[float, float]]:
    """The share of examples whose radius reaches an epsilon, at so many epsilons as can be seen.

    Between two of them the line says what is certified at the larger one, never more.
    """
    if not radii:
        return []
    ordered = sorted(radii)
    number = len(ordered)
    chosen = ordered[:: max(1, number // _MOST_STEPS)]
    reached = {each: 1 - bisect_left(ordered, each) / number for each in [*chosen, ordered[-1]]}
    steps = [(epsilon, share) for epsilon, share in reached.items() if epsilon > 0]
    return [(0.0, steps[0][1]), *steps, (steps[-1][0], 0.0)] if steps else []
