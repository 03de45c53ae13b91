"""Published protocols: their figures beside ours under the same protocol, and under honest attacks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from withstand.reporting.old_read import Run
from withstand.reporting.schema import Metrics, Published
from withstand.reporting.seeds import Group, Mean, Target, groups_of
from withstand.reporting.shares_schema import Accuracy
from withstand.reporting.stochastic_schema import ProtocolFigures
from withstand.reporting.summary import strongest_at
from withstand.reporting.old_wording import as_published, budget, cell, norm_text, percent

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
_OF_ONE_STEP = ("fgsm",)
_ONE_STEP = "pgd-1-linf"  # as the lawful attack of one step is named
_LEAST = 5e-4  # what a tenth of a point is rounded from


@dataclass(frozen=True)
class ProtocolRow:
    """One measure of a protocol.

    Attributes:
        measure: Clean, or the attack and its epsilon.
        published: What was published of it; None where nothing was.
        ours: Under the protocol.
        honest: Like beside like: under a lawful attack of one step for FGSM, under the strongest for PGD;
            None where none was run at that epsilon.
        by: The attack of ``honest``.
        worst: Under the strongest of the lawful attacks and its name; None where none was run.
        difference: Ours less honest, in points, as a text.
        attack: The protocol's attack; None of the clean row.
    """

    measure: str
    published: Published | None
    ours: Accuracy
    honest: Accuracy | None
    by: str | None
    worst: tuple[Accuracy, str] | None
    difference: str
    attack: str | None = None


@dataclass(frozen=True)
class ProtocolView:
    """The section on one published protocol.

    Attributes:
        title: Its name as readers know it.
        rows: Clean first.
        verdicts: One an attack beside which an honest one stands: what the protocol hides, in words.
        has_published: Whether any row has a published figure.
        description: How it attacks and predicts.
        attacks: Name and description of each attack.
    """

    title: str
    rows: Sequence[ProtocolRow]
    verdicts: Sequence[str]
    has_published: bool
    description: str
    attacks: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class ProtocolCell:
    """A figure under the protocol and the honest one, each with its interval; None where not measured.

    Attributes:
        ours: Under the protocol.
        honest: Under the strongest of the lawful attacks.
        published: What was published of it, by which the runs were begun; may be several.
    """

    ours: tuple[str, str] | None
    honest: tuple[str, str] | None
    published: Sequence[str] = ()


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
        verdicts=_verdicts(found["name"], rows, is_random=bool(metrics.get("sampling"))),
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
        _row("Clean", each, found["clean"], honest=(metrics["clean"], "as scored here"))
        for each in _or_none(published)
    ]


def _attacked_rows(metrics: Metrics, found: ProtocolFigures) -> list[ProtocolRow]:
    rows = []
    for attack in found["attacks"]:
        name, norm = attack["name"], attack["norm"]
        for point in sorted(attack["curve"], key=lambda point: point["epsilon"]):
            epsilon = point["epsilon"]
            strongest = strongest_at(metrics, norm, epsilon)
            worst = (strongest.point, strongest.attack) if strongest else None
            honest = _one_step_at(metrics, norm, epsilon) if name in _OF_ONE_STEP else worst
            of_it = [each for each in metrics.get("published", []) if _stands_for(each, name, norm, epsilon)]
            measure = f"{_TITLES.get(name, name)}, {budget(norm, epsilon)}"
            made = [_row(measure, each, point, honest=honest, worst=worst) for each in _or_none(of_it)]
            rows += [replace(row, attack=name) for row in made]
    return rows


def _one_step_at(metrics: Metrics, norm: str, epsilon: float) -> tuple[Accuracy, str] | None:
    """What the strongest lawful attack of one step leaves; None where none was run there."""
    single = [each for each in metrics.get("attacks", []) if each["name"].startswith(_ONE_STEP)]
    found = strongest_at({**metrics, "attacks": single}, norm, epsilon)
    return (found.point, found.attack) if found else None


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
    measure: str,
    published: Published | None,
    ours: Accuracy,
    *,
    honest: tuple[Accuracy, str] | None,
    worst: tuple[Accuracy, str] | None = None,
) -> ProtocolRow:
    beside, by = honest or (None, None)
    difference = cell(None) if beside is None else _points(ours["accuracy"] - beside["accuracy"])
    return ProtocolRow(measure, published, ours, beside, by, worst, difference)


def _points(share: float) -> str:
    """A difference of shares in points of per cent, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}") if abs(share) >= _LEAST else "0.0"


def _verdicts(protocol: str, rows: Sequence[ProtocolRow], *, is_random: bool) -> list[str]:
    """Of each attack, like with like."""
    attacks = dict.fromkeys(row.attack for row in rows if row.attack is not None)
    found = [
        (attack, _verdict([row for row in rows if row.attack == attack], is_single=attack in _OF_ONE_STEP))
        for attack in attacks
    ]
    return [
        " ".join([text, *_what_differs(protocol, attack, is_random=is_random)])
        for attack, text in found
        if text
    ]


def _verdict(rows: Sequence[ProtocolRow], *, is_single: bool) -> str | None:
    """Where one attack of the protocol and the honest one are farthest apart."""
    apart = [
        (row.ours["accuracy"] - row.honest["accuracy"], row, row.honest)
        for row in rows
        if row.honest is not None
    ]
    if not apart:
        return None
    difference, row, honest = max(apart, key=lambda each: each[0])
    ours, other = (percent(each["accuracy"], each["total"]) for each in (row.ours, honest))
    beside = "an honest attack of one step" if is_single else "the strongest attack run here"
    name = _TITLES.get(row.attack or "", row.attack)
    where = f"At {row.measure} it leaves {ours}, {beside} ({row.by}) {other}"
    if difference >= _LEAST:
        return f"The protocol's {name} flatters, by up to {100 * difference:.1f} points. {where}."
    if difference <= -_LEAST:
        return f"The protocol's {name} is harder than {beside} at every epsilon. {where}."
    return f"The protocol's {name} and {beside} agree at best. {where}."


def _what_differs(protocol: str, attack: str, *, is_random: bool) -> list[str]:
    """A sentence on how the attacks differ, where it is known of the protocol."""
    if protocol != "sebr":
        return []
    gradient = "follows the gradient of the mean network instead of the predictor that is scored"
    parts = [
        *([gradient, "averages over no draws"] if is_random else []),
        *([] if attack in _OF_ONE_STEP else ["hops from corner to corner of the ball to keep the last"]),
        "lets images leave [0, 1]",
    ]
    listed = " and ".join([text for text in (", ".join(parts[:-1]), parts[-1]) if text])
    return [f"What differs: the protocol {listed}."]


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
    published = [_published(each) for each in group.published if _is_at(each, target, group)]
    return ProtocolCell(_texts(group.protocols.get(target)), _texts(honest), published)


def _is_at(published: Published, target: Target, group: Group) -> bool:
    """Whether a figure was published of what a column shows; a clean one where others of the protocol are."""
    name, epsilon = target
    if name == "clean":
        others = [(each, other) for each in group.published for other in group.protocols if other != target]
        return published["measure"] == "clean" and any(
            _stands_for(each, other, "inf", at) for each, (other, at) in others
        )
    return _stands_for(published, name, "inf", epsilon)


def _published(figure: Published) -> str:
    note = figure.get("note")
    return f"published {as_published(figure['accuracy'])}{f', {note}' if note else ''}"


def _texts(mean: Mean | None) -> tuple[str, str] | None:
    if mean is None:
        return None
    value, lower, upper = (f"{100 * share:.2f}" for share in (mean.value, mean.lower, mean.upper))
    return f"{value}\N{NO-BREAK SPACE}%", f"{lower}\N{EN DASH}{upper}\N{NO-BREAK SPACE}%"
