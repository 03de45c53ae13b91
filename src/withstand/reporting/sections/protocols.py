"""Published protocols: their figures beside ours under the same protocol, and under adaptive attacks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from withstand.evaluation.measurements import Measurement, protocol_measure
from withstand.evaluation.random_results import ProtocolInfo
from withstand.evaluation.results import Published, Results
from withstand.reporting.read import Run
from withstand.reporting.section import Cell, Prose, Section, Table
from withstand.reporting.table import clean, one, rows, select, strongest_at
from withstand.reporting.wording import as_published, budget, cell, interval, norm_text, sentence, share_text

__all__ = ["PLACE", "TITLES", "is_of_protocol", "section", "stands_for"]

PLACE = 10
TITLES = {"sebr": "SEBR", "clean": "Clean", "fgsm": "FGSM", "pgd": "PGD"}
_OF_ONE_STEP = ("fgsm",)
_ONE_STEP = "pgd-1-linf"  # as the adaptive attack of one step is named
_LEAST = 5e-4  # what a tenth of a point is rounded from
_MEANING = (
    "Published figures compare with ours under the same protocol alone. An adaptive attack keeps images in "
    "[0, 1] and follows gradients of the very predictor that is scored. Like stands beside like at the same "
    "epsilon: an adaptive attack of one step beside FGSM, the strongest attack run here beside PGD. "
    "Difference is protocol less adaptive, in points: above 0, the protocol flatters. The worst of all "
    "attacks says how robust the network is."
)


class _Row(NamedTuple):
    """A published figure, ours under the protocol, and beside it ours under an adaptive attack.

    ``adaptive`` and ``worst`` are of the attack that they name; None where none was run at that epsilon.
    ``attack`` is the protocol's; empty of the clean row.
    """

    measure: str
    published: Published | None
    ours: Measurement
    adaptive: Measurement | None
    worst: Measurement | None = None
    attack: str = ""

    @property
    def difference(self) -> float | None:
        """Ours less that of the adaptive attack."""
        return self.ours.value - self.adaptive.value if self.adaptive else None


def section(run: Run) -> list[Section]:
    """What was measured under each published protocol."""
    if run.results is None:
        return []
    results, protocols = run.results, run.results.protocols
    return [_section(run, results, info, place) for place, info in enumerate(protocols, start=1)]


def stands_for(published: Published, attack: str, norm: str, epsilon: float) -> bool:
    """Whether a figure was published of a protocol's attack at an epsilon."""
    return (
        published.measure == "attacked"
        and published.attack == attack
        and published.epsilon is not None
        and math.isclose(published.epsilon, epsilon, abs_tol=1e-6)
        and (published.norm is None or norm_text(published.norm) == norm_text(norm))
    )


def is_of_protocol(run: Run, published: Published) -> bool:
    """Whether a published figure stands beside one of ours under its own protocol.

    A clean one does where others beside it do.
    """
    if run.results is None:
        return False
    if published.measure == "clean":
        others = (each for each in run.results.published if each.measure == "attacked")
        return any(is_of_protocol(run, each) for each in others)
    measures = [protocol_measure(info.name) for info in run.results.protocols]
    ours = (row for measure in measures for row in rows(select(run.table, measure)) if row.by != "clean")
    return any(stands_for(published, row.by, row.norm, row.level) for row in ours)


def _section(run: Run, results: Results, info: ProtocolInfo, place: int) -> Section:
    shown = [*_clean_rows(run, results, info), *_attacked_rows(run, results, info)]
    has_published = any(row.published for row in shown)
    verdicts = _verdicts(info.name, shown, is_random=results.sampling is not None)
    caption = "Accuracy with its 95 % interval."
    header = ["Accuracy", "Ours, same protocol", "Ours, adaptive", "Difference", "Worst of all attacks"]
    if has_published:
        caption += " Published figures stand as published."
        header = [header[0], "Published", *header[1:], "Source"]
    cells = [_cells(row, has_published=has_published) for row in shown]
    attacks = {TITLES.get(name, name): text for name, text in info.attacks.items()}
    title = f"Published protocol of {TITLES.get(info.name, info.name)}"
    return Section(
        key="protocol" if place == 1 else f"protocol-{place}",
        title=title,
        tab="attacks",
        prose=[Prose(_MEANING, "meaning", "How to read it."), *map(Prose, verdicts)],
        tables=[Table(title, header, cells, caption, kind="compare")],
        descriptions=[(name, sentence(text)) for name, text in attacks.items() if text],
        notes=[Prose(sentence(info.description), "small")],
        is_brief=True,
        measures=[protocol_measure(info.name)],
    )


def _clean_rows(run: Run, results: Results, info: ProtocolInfo) -> list[_Row]:
    ours = one(run.table, protocol_measure(info.name), by="clean")
    scored = replace(clean(run), by="as scored here")
    published = [each for each in results.published if each.measure == "clean" and is_of_protocol(run, each)]
    return [_Row("Clean", each, ours, scored) for each in _or_none(published)] if ours else []


def _attacked_rows(run: Run, results: Results, info: ProtocolInfo) -> list[_Row]:
    of_one_step = replace(run, table=run.table[run.table["by"].str.startswith(_ONE_STEP)])
    shown = []
    for name in info.attacks:
        measured = select(run.table, protocol_measure(info.name), by=name)
        for ours in rows(measured.sort_values("level")):
            at = ours.norm, ours.level
            worst = strongest_at(run, *at)
            adaptive = strongest_at(of_one_step, *at) if name in _OF_ONE_STEP else worst
            published = [each for each in results.published if stands_for(each, name, *at)]
            measure = f"{TITLES.get(name, name)}, {budget(*at)}"
            shown += [_Row(measure, each, ours, adaptive, worst, name) for each in _or_none(published)]
    return shown


def _or_none(published: Sequence[Published]) -> Sequence[Published | None]:
    """One row where nothing was published, too."""
    return published or [None]


def _cells(row: _Row, *, has_published: bool) -> list[Cell]:
    difference = Cell(cell(None) if row.difference is None else _points(row.difference))
    worst = _share(row.worst) if row.attack else Cell(cell(None), is_words=True)
    cells = [_share(replace(row.ours, by="")), _share(row.adaptive), difference, worst]
    if has_published:
        published = row.published
        figure = Cell(as_published(published.accuracy) if published else cell(None))
        source = Cell(
            published.source if published else cell(None), _known(published), is_words=True, kind="words"
        )
        cells = [figure, *cells, source]
    return [Cell(row.measure), *cells]


def _known(published: Published | None) -> list[str]:
    return [published.note] if published and published.note else []


def _share(share: Measurement | None) -> Cell:
    """A share, its interval and the attack that it was measured under."""
    if share is None:
        return Cell("not measured", is_words=True)
    return Cell(share_text(share), [interval(share), *([share.by] if share.by else [])], is_bold=True)


def _points(share: float) -> str:
    """A difference of shares in points of per cent, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}") if abs(share) >= _LEAST else "0.0"


def _verdicts(protocol: str, shown: Sequence[_Row], *, is_random: bool) -> list[str]:
    """Of each attack, like with like: what the protocol hides, in words."""
    verdicts = []
    for attack in dict.fromkeys(row.attack for row in shown if row.attack):
        apart = [
            (difference, row.adaptive, row)
            for row in shown
            if row.attack == attack and row.adaptive and (difference := row.difference) is not None
        ]
        if apart:
            verdict = _verdict(*max(apart, key=lambda each: each[0]))
            verdicts.append(" ".join([verdict, *_what_differs(protocol, attack, is_random=is_random)]))
    return verdicts


def _verdict(difference: float, adaptive: Measurement, row: _Row) -> str:
    """Where one attack of the protocol and the adaptive one are farthest apart."""
    is_single = row.attack in _OF_ONE_STEP
    beside = "an adaptive attack of one step" if is_single else "the strongest attack run here"
    name = TITLES.get(row.attack, row.attack)
    other = f"{beside} ({adaptive.by}) {share_text(adaptive)}"
    where = f"At {row.measure} it leaves {share_text(row.ours)}, {other}"
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
