"""What becomes of each class, and what is taken for what."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from withstand.core.writing import percent
from withstand.reporting.figures import CATEGORIES, SHARES, axis, chart, hover, intervals_of, series
from withstand.reporting.formatting import budget, count, counted, interval, share_text
from withstand.reporting.read import Run
from withstand.reporting.section import PROSE, Cell, Figure, Prose, Section, Table
from withstand.results.results import Classes
from withstand.results.shares import Share

PLACE = 10
_MOST_CLASSES = 30  # in the figure
_SYMBOLS = ("circle", "square", "diamond-open")
_MOST_NAMES = 20  # of a matrix that can be read
_MOST_MISTAKES = 12
_MOST_NAMED = 3  # below a matrix
_TEXTS = PROSE["classes"]

_Columns = Mapping[str, Mapping[str, Share | None]]  # what was measured -> class -> share
_Counts = Sequence[Sequence[int]]  # a row a true class, a column a predicted one


def section(run: Run) -> list[Section]:
    """Accuracies of each class, and counts of what is taken for what; nothing where there are no classes."""
    classes = run.results.classes if run.results else None
    if classes is None:
        return []
    sections = [_accuracies(classes)] if classes.accuracies else []
    return [*sections, _confusion(classes)] if classes.class_names else sections


def _accuracies(classes: Classes) -> Section:
    columns = _columns(classes)
    verdict = _verdict(columns)
    body = [[Cell(name), *(_cell(of[name]) for of in columns.values())] for name in columns["Clean"]]
    caption = _TEXTS["table"]
    return Section(
        key="classes",
        title="Each class",
        tab="answers",
        prose=[Prose(verdict)] if verdict else [],
        figures=[_figure(columns)],
        tables=[Table("The same numbers as a table", ["Class", *columns], body, caption, is_folded=True)],
    )


def _columns(classes: Classes) -> _Columns:
    columns: dict[str, dict[str, Share | None]] = {
        "Clean": {accuracy.name: accuracy.clean for accuracy in classes.accuracies}
    }
    for kind in ("attacked", "certified"):
        if at := getattr(classes, kind):
            head = f"{kind.capitalize()} by {at.name}, {budget(at.norm, at.epsilon)}"
            columns[head] = {accuracy.name: getattr(accuracy, kind) for accuracy in classes.accuracies}
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
    low, high = (percent(value) for value, _, _ in (known[0], known[-1]))
    head = head[0].lower() + head[1:]
    return f"Weakest, {head}, is class {weakest} with {low}; strongest is {strongest} with {high}."


def _figure(columns: _Columns) -> Figure:
    """A dot a class and column; of many classes the weakest."""
    ranks = {name: share.value if share else 2.0 for name, share in columns[_headline(columns)].items()}
    weakest = sorted(ranks, key=ranks.__getitem__)[:_MOST_CLASSES]
    shown = [name for name in ranks if name in weakest]
    caption = _TEXTS["figure"]
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
        list(map(html.escape, shares)),
        place,
        texts=texts,
        mode="markers",
        marker={"symbol": symbol, "size": 10, "line": {"width": 2.5 if symbol.endswith("-open") else 0}},
        error_x=intervals_of(list(shares.values())) | {"thickness": 1.2, "width": 3},
    )


def _confusion(classes: Classes) -> Section:
    """The matrices; of many classes the mistakes alone."""
    matrices = {"Clean images": classes.confusion.clean}
    if (at := classes.attacked) and classes.confusion.attacked:
        matrices[f"Under {at.name}, {budget(at.norm, at.epsilon)}"] = classes.confusion.attacked
    drawn = _matrix if len(classes.class_names) <= _MOST_NAMES else _mistakes_table
    tables = [drawn(title, classes.class_names, counts) for title, counts in matrices.items()]
    return Section(
        key="confusion",
        title="What is taken for what",
        tab="answers",
        tables=[table for table in tables if table.rows],
        notes=[
            Prose(f"{table.title}: {_TEXTS['no_mistake']}", "small") for table in tables if not table.rows
        ],
    )


def _mistakes(names: Sequence[str], counts: _Counts) -> list[tuple[str, str, int, float]]:
    """True class, predicted class, how many images and which share of the class; the most frequent first."""
    table = np.array(counts)
    wrong = table * (1 - np.eye(len(table), dtype=int))
    ranked = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_MISTAKES].tolist()
    places = [divmod(place, len(table)) for place in ranked]
    return [
        (names[true], names[taken], int(wrong[true, taken]), wrong[true, taken] / table[true].sum())
        for true, taken in places
        if wrong[true, taken]
    ]


def _matrix(title: str, names: Sequence[str], counts: _Counts) -> Table:
    mistakes = _mistakes(names, counts)[:_MOST_NAMED]
    most_frequent = ", ".join(
        f"{true} taken for {taken} ({count(number)})" for true, taken, number, _ in mistakes
    )
    body = []
    for true, row in enumerate(counts):
        kinds = ["correct-answer" if place == true else "" for place in range(len(row))]
        total = max(1, sum(row))
        cells = [Cell(count(n), shade=n / total, kind=kind) for n, kind in zip(row, kinds, strict=True)]
        body.append([Cell(names[true]), *cells])
    sentence = f"Most often: {most_frequent}." if most_frequent else f"Here {_TEXTS['no_mistake']}"
    return Table(title, ["True", *names], body, f"{_TEXTS['matrix']} {sentence}", kind="confusion")


def _mistakes_table(title: str, names: Sequence[str], counts: _Counts) -> Table:
    body = [
        [Cell(true), Cell(taken, is_words=True), Cell(count(number)), Cell(percent(share))]
        for true, taken, number, share in _mistakes(names, counts)
    ]
    header = ["True class", "Taken for", "Images", "Share of the class"]
    caption = f"The most frequent mistakes; {len(names)} classes are too many for a matrix."
    return Table(title, header, body, caption, kind="mistakes")
