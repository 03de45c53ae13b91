"""Published protocols: their figures beside ours under the same protocol, and under honest attacks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from withstand.reporting.read import Run
from withstand.reporting.schema import Metrics, Published
from withstand.reporting.seeds import Group, Mean, Target, groups_of
from withstand.reporting.shares_schema import Accuracy
from withstand.reporting.stochastic_schema import ProtocolFigures
from withstand.reporting.summary import strongest_at
from withstand.reporting.wording import budget, cell, norm_text, percent

__all__ = [
    "ComparedProtocols",
    "ProtocolCell",
    "ProtocolRow",
    "ProtocolView",
    "compare_protocols",
    "is_of_protocol",
    "view_protocols",
]

_TITLES = {"sebr": "SEBR", "clean": "Clean", "fgsm": "FGSM", "pgd": "PGD"}
_LEAST = 5e-4  # what a tenth of a point is rounded from


@dataclass(frozen=True)
class ProtocolRow:
    """One measure of a protocol.

    Attributes:
        measure: Clean, or the attack and its epsilon.
        published: What was published of it; None where nothing was.
        ours: Under the protocol.
        honest: Under the strongest of the lawful attacks at that epsilon; None where none was run.
        by: The attack of ``honest``.
        difference: Ours less honest, in points, as a text.
    """

    measure: str
    published: Published | None
    ours: Accuracy
    honest: Accuracy | None
    by: str | None
    difference: str


@dataclass(frozen=True)
class ProtocolView:
    """The section on one published protocol.

    Attributes:
        title: Its name as readers know it.
        rows: Clean first.
        verdict: What the protocol hides, in words; None where no honest attack stands beside it.
        has_published: Whether any row has a published figure.
        description: How it attacks and predicts.
        attacks: Name and description of each attack.
    """

    title: str
    rows: Sequence[ProtocolRow]
    verdict: str | None
    has_published: bool
    description: str
    attacks: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class ProtocolCell:
    """A figure under the protocol and the honest one, each with its interval; None where not measured."""

    ours: tuple[str, str] | None
    honest: tuple[str, str] | None


@dataclass(frozen=True)
class ComparedProtocols:
    """Runs under a published protocol, beside each other; those that differ in their seeds alone are one row.

    Attributes:
        header: Of the columns with figures.
        rows: Label and one entry a column.
    """

    header: Sequence[str]
    rows: Sequence[tuple[str, Sequence[ProtocolCell]]]


def view_protocols(metrics: Metrics) -> list[ProtocolView]:
    """What the page shows of the published protocols that a run was measured under."""
    return [_view(metrics, found) for found in metrics.get("protocols") or []]


def is_of_protocol(metrics: Metrics, published: Published) -> bool:
    """Whether a published figure stands beside one of ours under its own protocol.

    A clean one does where others beside it do.
    """
    if published["measure"] == "clean":
        others = metrics.get("published", [])
        return any(each["measure"] == "attacked" and is_of_protocol(metrics, each) for each in others)
    return any(
        _stands_for(published, attack["name"], attack["norm"], point["epsilon"])
        for found in metrics.get("protocols") or []
        for attack in found["attacks"]
        for point in attack["curve"]
    )


def _view(metrics: Metrics, found: ProtocolFigures) -> ProtocolView:
    rows = [row for each in (_clean_rows(metrics, found), _attacked_rows(metrics, found)) for row in each]
    return ProtocolView(
        title=_TITLES.get(found["name"], found["name"]),
        rows=rows,
        verdict=_verdict(rows),
        has_published=any(row.published for row in rows),
        description=found["description"].rstrip("."),
        attacks=[
            (_TITLES.get(attack["name"], attack["name"]), attack.get("description") or "")
            for attack in found["attacks"]
        ],
    )


def _clean_rows(metrics: Metrics, found: ProtocolFigures) -> list[ProtocolRow]:
    published = [
        each
        for each in metrics.get("published", [])
        if each["measure"] == "clean" and is_of_protocol(metrics, each)
    ]
    return [
        _row("Clean", each, found["clean"], (metrics["clean"], "as scored here"))
        for each in _or_none(published)
    ]


def _attacked_rows(metrics: Metrics, found: ProtocolFigures) -> list[ProtocolRow]:
    rows = []
    for attack in found["attacks"]:
        name, norm = attack["name"], attack["norm"]
        for point in sorted(attack["curve"], key=lambda point: point["epsilon"]):
            epsilon = point["epsilon"]
            strongest = strongest_at(metrics, norm, epsilon)
            honest = (strongest.point, strongest.attack) if strongest else None
            of_it = [each for each in metrics.get("published", []) if _stands_for(each, name, norm, epsilon)]
            measure = f"{_TITLES.get(name, name)}, {budget(norm, epsilon)}"
            rows += [_row(measure, each, point, honest) for each in _or_none(of_it)]
    return rows


def _or_none(published: Sequence[Published]) -> Sequence[Published | None]:
    """One row where nothing was published, too."""
    return published or [None]


def _stands_for(published: Published, attack: str, norm: str, epsilon: float) -> bool:
    of_norm, of_epsilon = published.get("norm"), published.get("epsilon")
    return (
        published["measure"] == "attacked"
        and published.get("attack") == attack
        and of_epsilon is not None
        and math.isclose(of_epsilon, epsilon, abs_tol=1e-6)
        and (of_norm is None or norm_text(of_norm) == norm_text(norm))
    )


def _row(
    measure: str, published: Published | None, ours: Accuracy, beside: tuple[Accuracy, str] | None
) -> ProtocolRow:
    honest, by = beside or (None, None)
    difference = cell(None) if honest is None else _points(ours["accuracy"] - honest["accuracy"])
    return ProtocolRow(measure, published, ours, honest, by, difference)


def _points(share: float) -> str:
    """A difference of shares in points of per cent, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}") if abs(share) >= _LEAST else "0.0"


def _verdict(rows: Sequence[ProtocolRow]) -> str | None:
    """Where protocol and honest attacks are farthest apart."""
    apart = [
        (row.ours["accuracy"] - row.honest["accuracy"], row, row.honest)
        for row in rows
        if row.honest is not None and row.measure != "Clean"
    ]
    if not apart:
        return None
    difference, row, honest = max(apart, key=lambda each: each[0])
    ours, other = (percent(each["accuracy"], each["total"]) for each in (row.ours, honest))
    where = f"At {row.measure} it leaves {ours}, the strongest attack run here ({row.by}) {other}"
    if difference >= _LEAST:
        return f"The protocol flatters, by up to {100 * difference:.1f} points. {where}."
    if difference <= -_LEAST:
        return (
            "The protocol is harder than the attacks run here at every epsilon, since its images may leave "
            f"[0, 1]. {where}, and elsewhere they are farther apart."
        )
    return f"The protocol and the attacks run here agree at best. {where}."


def compare_protocols(runs: Sequence[Run]) -> ComparedProtocols | None:
    """Runs under the published protocols; None where none was measured under one."""
    groups = [group for group in groups_of(runs) if group.protocols]
    if not groups:
        return None
    targets = list(dict.fromkeys(target for group in groups for target in group.protocols))
    targets.sort(key=_order)
    header = ["Clean" if name == "clean" else f"{_TITLES.get(name, name)} {eps:g}" for name, eps in targets]
    rows = [(_label(group), [_cell(group, target) for target in targets]) for group in groups]
    return ComparedProtocols(header, rows)


def _order(target: Target) -> tuple[bool, str, float]:
    """Clean first."""
    name, epsilon = target
    return name != "clean", name, epsilon


def _label(group: Group) -> str:
    return group.label if group.num_seeds == 1 else f"{group.label}, mean of {group.num_seeds}"


def _cell(group: Group, target: Target) -> ProtocolCell:
    name, epsilon = target
    honest = group.clean if name == "clean" else group.attacked.get((norm_text("inf"), epsilon))
    return ProtocolCell(_texts(group.protocols.get(target)), _texts(honest))


def _texts(mean: Mean | None) -> tuple[str, str] | None:
    if mean is None:
        return None
    value, lower, upper = (f"{100 * share:.2f}" for share in (mean.value, mean.lower, mean.upper))
    return f"{value}\N{NO-BREAK SPACE}%", f"{lower}\N{EN DASH}{upper}\N{NO-BREAK SPACE}%"
