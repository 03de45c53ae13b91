"""Published figures beside ours: under their own protocols, under adaptive attacks, and all others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from withstand.core.writing import norm_text
from withstand.reporting.formatting import as_published, budget, cell, interval, sentence, share_text
from withstand.reporting.read import Run
from withstand.reporting.section import PROSE, Cell, Prose, Section, Table
from withstand.reporting.table import at, clean, method_name, most_certified, rows, select, strongest
from withstand.results.measurements import Measurement, protocol_measure
from withstand.results.random_answers import ProtocolInfo
from withstand.results.results import Published

PLACE = 20
TITLES = {"sebr": "SEBR", "clean": "Clean", "fgsm": "FGSM", "pgd": "PGD"}
_OF_ONE_STEP = ("fgsm",)
_ONE_STEP = "pgd-1-linf"  # as the adaptive attack of one step is named
_LEAST = 5e-4  # what a tenth of a point is rounded from


class _Row(NamedTuple):
    """A published figure, ours under the protocol, and beside it ours under an adaptive attack.

    ``adaptive`` and ``worst`` are of the attack that they name; None where none was run at that epsilon.
    ``attack`` is the protocol's; empty of the clean row.
    """

    ours: Measurement
    published: Published | None
    measure: str
    adaptive: Measurement | None
    worst: Measurement | None
    attack: str


def section(run: Run) -> list[Section | None]:
    """What the page shows of published figures: by protocol, and those of none."""
    return [*protocols(run), published(run)]


def protocols(run: Run) -> list[Section]:
    """What was measured under each published protocol."""
    infos = run.results.protocols if run.results else []
    return [_protocol(run, info, place) for place, info in enumerate(infos, start=1)]


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
        others = (figure for figure in run.results.published if figure.measure == "attacked")
        return any(is_of_protocol(run, figure) for figure in others)
    measures = [protocol_measure(info.name) for info in run.results.protocols]
    ours = (row for measure in measures for row in rows(select(run.table, measure)) if row.by != "clean")
    return any(stands_for(published, row.by, row.norm, row.level) for row in ours)


def _protocol(run: Run, info: ProtocolInfo, place: int) -> Section:
    shown = _rows(run, info)
    verdicts = _verdicts(info.name, shown, is_random=bool(run.results and run.results.sampling))
    meaning = Prose(PROSE["protocols"]["meaning"], "meaning", "How to read it.")
    title = f"Published protocol of {TITLES.get(info.name, info.name)}"
    attacks = [(TITLES.get(name, name), sentence(text)) for name, text in info.attacks.items() if text]
    return Section(
        key="protocol" if place == 1 else f"protocol-{place}",
        title=title,
        tab="attacks",
        prose=[meaning, *map(Prose, verdicts)],
        tables=[_table(title, shown)],
        descriptions=attacks,
        notes=[Prose(sentence(info.description), "small")],
        is_brief=True,
        measures=[protocol_measure(info.name)],
    )


def _rows(run: Run, info: ProtocolInfo) -> list[_Row]:
    """A row a published figure of each measure, one where nothing was published; the clean ones first."""
    measured = select(run.table, protocol_measure(info.name)).sort_values("level", kind="stable")
    of_one_step = replace(run, table=run.table[run.table["by"].str.startswith(_ONE_STEP)])
    published = run.results.published if run.results else []
    beside: tuple[str, Measurement | None, Measurement | None, str]
    shown = []
    for name in ("clean", *info.attacks):
        for ours in rows(measured[measured["by"] == name]):
            where = ours.norm, ours.level
            if name == "clean":
                figures = [
                    figure for figure in published if figure.measure == name and is_of_protocol(run, figure)
                ]
                beside = "Clean", replace(clean(run), by="as scored here"), None, ""
            else:
                figures = [figure for figure in published if stands_for(figure, name, *where)]
                worst = at(strongest(run), *where)
                adaptive = at(strongest(of_one_step), *where) if name in _OF_ONE_STEP else worst
                beside = f"{TITLES.get(name, name)}, {budget(*where)}", adaptive, worst, name
            shown += [_Row(ours, figure, *beside) for figure in figures or (None,)]
    return shown


def _table(title: str, shown: Sequence[_Row]) -> Table:
    header = ["Accuracy", "Ours, same protocol", "Ours, adaptive", "Difference", "Worst of all attacks"]
    body, caption = list(map(_cells, shown)), "Accuracy with its 95 % interval."
    if any(row.published for row in shown):
        header = [header[0], "Published", *header[1:], "Source"]
        ends = [_published_cells(row.published) for row in shown]
        body = [
            [cells[0], figure, *cells[1:], source] for cells, (figure, source) in zip(body, ends, strict=True)
        ]
        caption += " Published figures stand as published."
    return Table(title, header, body, caption, kind="compare")


def _cells(row: _Row) -> list[Cell]:
    difference = _points(row.ours.value - row.adaptive.value) if row.adaptive else cell(None)
    worst = _share(row.worst) if row.attack else Cell(cell(None), is_words=True)
    ours = _share(replace(row.ours, by=""))
    return [Cell(row.measure), ours, _share(row.adaptive), Cell(difference), worst]


def _published_cells(published: Published | None) -> tuple[Cell, Cell]:
    """The figure and its source."""
    if published is None:
        return Cell(cell(None)), Cell(cell(None), is_words=True, kind="words")
    note = [published.note] if published.note else []
    return Cell(as_published(published.accuracy)), Cell(published.source, note, is_words=True, kind="words")


def _share(share: Measurement | None) -> Cell:
    """A share, its interval and the attack that it was measured under."""
    if share is None:
        return Cell("not measured", is_words=True)
    return Cell(share_text(share), list(filter(None, [interval(share), share.by])), is_bold=True)


def _points(share: float) -> str:
    """A difference of shares in points of per cent, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}") if abs(share) >= _LEAST else "0.0"


def _verdicts(protocol: str, shown: Sequence[_Row], *, is_random: bool) -> list[str]:
    """Of each attack, like with like: what the protocol hides, in words."""
    apart: dict[str, list[tuple[float, Measurement, _Row]]] = {}
    for row in shown:
        if row.attack and row.adaptive:
            difference = row.ours.value - row.adaptive.value
            apart.setdefault(row.attack, []).append((difference, row.adaptive, row))
    return [
        _verdict(*max(pairs, key=lambda pair: pair[0])) + _what_differs(protocol, attack, is_random=is_random)
        for attack, pairs in apart.items()
    ]


def _verdict(difference: float, adaptive: Measurement, row: _Row) -> str:
    """Where one attack of the protocol and the adaptive one are farthest apart."""
    beside = (
        "an adaptive attack of one step" if row.attack in _OF_ONE_STEP else "the strongest attack run here"
    )
    verdict = f"and {beside} agree at best"
    if difference >= _LEAST:
        verdict = f"flatters, by up to {100 * difference:.1f} points"
    elif difference <= -_LEAST:
        verdict = f"is harder than {beside} at every epsilon"
    other = f"{beside} ({adaptive.by}) {share_text(adaptive)}"
    where = f"At {row.measure} it leaves {share_text(row.ours)}, {other}."
    return f"The protocol's {TITLES.get(row.attack, row.attack)} {verdict}. {where}"


def _what_differs(protocol: str, attack: str, *, is_random: bool) -> str:
    """A sentence on how the attacks differ, where it is known of the protocol."""
    if protocol != "sebr":
        return ""
    gradient = "follows the gradient of the mean network instead of the predictor that is scored"
    parts = [gradient, "averages over no draws"] if is_random else []
    parts += [] if attack in _OF_ONE_STEP else ["hops from corner to corner of the ball to keep the last"]
    listed = f"{', '.join(parts)} and " if parts else ""
    return f" What differs: the protocol {listed}lets images leave [0, 1]."


def published(run: Run) -> Section | None:
    """Each published figure with ours at the same measure, norm and epsilon.

    Those that a section on their own protocol shows are left out.
    """
    figures = run.results.published if run.results else []
    body = [_published_row(run, figure) for figure in figures if not is_of_protocol(run, figure)]
    if not body:
        return None
    header = ["Accuracy", "Ours", "95 % interval", "Published", "Source"]
    title, caption = "Beside published figures", PROSE["published"]["table"]
    table = Table(title, header, body, caption)
    return Section("published", title, "summary", tables=[table], is_brief=True)


def _published_row(run: Run, figure: Published) -> list[Cell | str]:
    name, ours, by = _ours(run, figure)
    measured = [Cell("not measured", is_words=True), Cell("\N{EM DASH}", is_words=True)]
    if ours:
        measured = [Cell(share_text(ours), [by] if by else []), Cell(interval(ours))]
    accuracy, source = _published_cells(figure)
    return [name, *measured, replace(accuracy, small=["as published"]), source]


def _ours(run: Run, figure: Published) -> tuple[str, Measurement | None, str]:
    """What is compared, our figure, and the attack or certificate that it is by."""
    if figure.measure == "clean":
        return "clean", clean(run), ""
    if figure.norm is None or figure.epsilon is None:
        return figure.measure, None, ""
    name = f"{figure.measure} by {figure.attack}" if figure.attack else figure.measure
    name = f"{name}, {budget(figure.norm, figure.epsilon)}"
    if figure.measure == "attacked":
        ours = at(strongest(run), figure.norm, figure.epsilon)
        return name, ours, ours.by if ours else ""
    ours = at(most_certified(run), figure.norm, figure.epsilon)
    return name, ours, f"certified ({method_name(run.results, ours.by)})" if ours else ""
