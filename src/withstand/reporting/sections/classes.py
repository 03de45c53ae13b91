"""What becomes of each class."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from withstand.evaluation.results import Classes
from withstand.evaluation.shares import Share
from withstand.reporting.figures import CATEGORIES, SHARES, axis, chart, escaped, hover, intervals_of, series
from withstand.reporting.read import Run
from withstand.reporting.section import Cell, Figure, Prose, Section, Table
from withstand.reporting.wording import budget, counted, interval, percent, share_text

__all__ = ["PLACE", "section"]

PLACE = 10
_MOST_CLASSES = 30  # in the figure
_SYMBOLS = ("circle", "square", "diamond-open")
_FIGURE = "Accuracy of each class. Bars are 95 % intervals, wide where a class has few examples."
_TABLE = "Share of each class's own test examples, with its 95 % interval."

_Columns = Mapping[str, Mapping[str, Share | None]]  # what was measured -> class -> share


def section(run: Run) -> Section | None:
    """Accuracies of each class; None where there are none."""
    classes = run.results.classes if run.results else None
    if classes is None or not classes.accuracies:
        return None
    columns = _columns(classes)
    verdict = _verdict(columns)
    body = [[Cell(name), *(_cell(of[name]) for of in columns.values())] for name in columns["Clean"]]
    return Section(
        key="classes",
        title="Each class",
        tab="answers",
        prose=[Prose(verdict)] if verdict else [],
        figures=[_figure(columns)],
        tables=[Table("The same numbers as a table", ["Class", *columns], body, _TABLE, is_folded=True)],
    )


def _columns(classes: Classes) -> _Columns:
    columns: dict[str, dict[str, Share | None]] = {
        "Clean": {each.name: each.clean for each in classes.accuracies}
    }
    if at := classes.attacked:
        head = f"Attacked by {at.name}, {budget(at.norm, at.epsilon)}"
        columns[head] = {each.name: each.attacked for each in classes.accuracies}
    if at := classes.certified:
        head = f"Certified by {at.name}, {budget(at.norm, at.epsilon)}"
        columns[head] = {each.name: each.certified for each in classes.accuracies}
    return columns


def _cell(share: Share | None) -> Cell:
    if share is None:
        return Cell("not measured", is_words=True)
    return Cell(share_text(share), [f"{interval(share)}, {counted(share)}"])


def _headline(columns: _Columns) -> str:
    """The attacked column where there is one, else the last."""
    return list(columns)[min(1, len(columns) - 1)]


def _verdict(columns: _Columns) -> str:
    """The weakest class and the strongest, in words."""
    head = _headline(columns)
    known = sorted((share.value, share.total, name) for name, share in columns[head].items() if share)
    if len(known) < 2:
        return ""
    weakest, strongest = known[0][-1], known[-1][-1]
    low, high = (percent(value, total) for value, total, _ in (known[0], known[-1]))
    head = head[0].lower() + head[1:]
    return f"Weakest, {head}, is class {weakest} with {low}; strongest is {strongest} with {high}."


def _figure(columns: _Columns) -> Figure:
    """A dot a class and column; of many classes the weakest."""
    ranks = {name: share.value if share else 2.0 for name, share in columns[_headline(columns)].items()}
    weakest = sorted(ranks, key=ranks.__getitem__)[:_MOST_CLASSES]
    shown = [name for name in ranks if name in weakest]
    caption = _FIGURE
    if len(shown) < len(ranks):
        caption += f" Shown are the {len(shown)} weakest of {len(ranks)} classes; the table has all."
    traces = [
        _dots(head, place, {name: share for name in shown if (share := shares[name])})
        for place, (head, shares) in enumerate(columns.items())
    ]
    x, y = axis("share of the class's test examples", **SHARES), axis("class", **CATEGORIES)
    return chart(traces, "Accuracy of each class", caption, x=x, y=y, height=150 + 26 * len(shown))


def _dots(head: str, place: int, shares: Mapping[str, Share]) -> go.Scatter:
    symbol = _SYMBOLS[place]
    texts = [
        hover(name, f"{head}: {share_text(share)}", f"95 % interval {interval(share)}")
        for name, share in shares.items()
    ]
    values = [share.value for share in shares.values()]
    return series(
        head,
        values,
        list(map(escaped, shares)),
        place,
        texts=texts,
        mode="markers",
        marker={"symbol": symbol, "size": 10, "line": {"width": 2.5 if symbol.endswith("-open") else 0}},
        error_x=intervals_of(list(shares.values())) | {"thickness": 1.2, "width": 3},
    )
