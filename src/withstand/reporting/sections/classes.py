"""What becomes of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from withstand.evaluation.results import Classes
from withstand.evaluation.shares import Share
from withstand.reporting.figures import CATEGORIES, SHARES, axis, chart, escaped, hover, intervals_of, series
from withstand.reporting.read import Run
from withstand.reporting.section import Cell, Figure, Prose, Section, Table
from withstand.reporting.wording import budget, counted, interval, share_text

__all__ = ["PLACE", "section"]

PLACE = 10
_MOST_CLASSES = 30  # in the figure
_SYMBOLS = ("circle", "square", "diamond-open")

_Columns = Mapping[str, Sequence[Share | None]]


def section(run: Run) -> Section | None:
    """Accuracies of each class; None where there are none."""
    classes = run.results.classes if run.results else None
    if classes is None or not classes.accuracies:
        return None
    names = [each.name for each in classes.accuracies]
    columns = _columns(classes)
    verdict = _verdict(names, columns)
    rows = [[Cell(name), *map(_cell, shares)] for name, *shares in zip(names, *columns.values(), strict=True)]
    caption = "Share of each class's own test examples, with its 95 % interval."
    return Section(
        key="classes",
        title="Each class",
        tab="answers",
        prose=[Prose(verdict)] if verdict else [],
        figures=[_figure(names, columns)],
        tables=[Table("The same numbers as a table", ["Class", *columns], rows, caption, is_folded=True)],
    )


def _columns(classes: Classes) -> dict[str, list[Share | None]]:
    """What was measured, as headings, and the share of each class; None where it was not measured."""
    columns: dict[str, list[Share | None]] = {"Clean": [each.clean for each in classes.accuracies]}
    targets = {"Attacked": classes.attacked, "Certified": classes.certified}
    for word, target in targets.items():
        if target is not None:
            shares = [getattr(each, word.lower()) for each in classes.accuracies]
            columns[f"{word} by {target.name}, {budget(target.norm, target.epsilon)}"] = shares
    return columns


def _cell(share: Share | None) -> Cell:
    if share is None:
        return Cell("not measured", is_words=True)
    return Cell(share_text(share), [f"{interval(share)}, {counted(share)}"])


def _telling(columns: _Columns) -> tuple[str, Sequence[Share | None]]:
    """The attacked column where there is one, else the last."""
    return list(columns.items())[min(1, len(columns) - 1)]


def _verdict(names: Sequence[str], columns: _Columns) -> str:
    """The weakest class and the strongest, in words."""
    head, shares = _telling(columns)
    known = [
        (share.value, share.total, name, share) for name, share in zip(names, shares, strict=True) if share
    ]
    if len(known) < 2:
        return ""
    (*_, weakest, low), (*_, strongest, high) = min(known), max(known)
    return (
        f"Weakest, {head[0].lower()}{head[1:]}, is class {weakest} with {share_text(low)}; strongest is "
        f"{strongest} with {share_text(high)}."
    )


def _figure(names: Sequence[str], columns: _Columns) -> Figure:
    """A dot a class and column; of many classes the weakest."""
    _, telling = _telling(columns)
    ranks = [2.0 if share is None else share.value for share in telling]
    weakest = sorted(range(len(names)), key=ranks.__getitem__)[:_MOST_CLASSES]
    shown = sorted(weakest)
    traces = [
        _dots(column, place, [(names[number], shares[number]) for number in shown])
        for place, (column, shares) in enumerate(columns.items())
    ]
    caption = "Accuracy of each class. Bars are 95 % intervals, wide where a class has few examples."
    if len(shown) < len(names):
        caption += f" Shown are the {len(shown)} weakest of {len(names)} classes; the table has all."
    return chart(
        traces,
        "Accuracy of each class",
        caption,
        x=axis("share of the class's test examples", **SHARES),
        y=axis("class", **CATEGORIES),
        height=150 + 26 * len(shown),
    )


def _dots(column: str, place: int, shares: Sequence[tuple[str, Share | None]]) -> go.Scatter:
    known = [(name, share) for name, share in shares if share is not None]
    symbol = _SYMBOLS[place]
    return series(
        column,
        [share.value for _, share in known],
        [escaped(name) for name, _ in known],
        place,
        texts=[
            hover(name, f"{column}: {share_text(share)}", f"95 % interval {interval(share)}")
            for name, share in known
        ],
        mode="markers",
        marker={"symbol": symbol, "size": 10, "line": {"width": 2.5 if symbol.endswith("-open") else 0}},
        error_x=intervals_of([share for _, share in known]) | {"thickness": 1.2, "width": 3},
    )
