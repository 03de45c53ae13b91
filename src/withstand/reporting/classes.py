"""What the page says of each class: its accuracies, and what it is taken for."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from withstand.reporting.old_figures import COLOURS, SHARES, Figure, axis, finished, layout
from withstand.reporting.measures_schema import Classes, ClassRow, Confusion, Measure
from withstand.reporting.schema import Accuracy
from withstand.reporting.old_wording import budget, count, interval, percent

__all__ = ["ClassesView", "ConfusionView", "Matrix", "Mistake", "view_classes", "view_confusion"]

_MOST_CLASSES = 30  # in the figure
_MOST_NAMES = 20  # of a matrix that can be read
_MOST_MISTAKES = 12
_SYMBOLS = ("circle", "square", "diamond-open")


@dataclass(frozen=True)
class ClassesView:
    """The section on classes.

    Attributes:
        figure: A dot a class and measure.
        columns: What was measured, as headings.
        rows: Name of a class, and its share in each column; None where it was not measured.
        verdict: The weakest class and the strongest, in words.
    """

    figure: Figure
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Accuracy | None]]]
    verdict: str


@dataclass(frozen=True)
class Mistake:
    """How often one class is taken for another, as texts and as a share of the true class."""

    true: str
    predicted: str
    number: str
    share: float


@dataclass(frozen=True)
class Matrix:
    """Counts of images: a row a true class, a column a predicted one.

    Attributes:
        title: Clean, or the attack.
        rows: Name of the true class, and for each predicted class the count and its share of the row;
            empty where the classes are too many to be read.
        mistakes: The most frequent ones.
    """

    title: str
    rows: Sequence[tuple[str, Sequence[tuple[str, float]]]]
    mistakes: Sequence[Mistake]


@dataclass(frozen=True)
class ConfusionView:
    """The section on confusion; ``names`` head the columns of each matrix."""

    names: Sequence[str]
    matrices: Sequence[Matrix]


def view_classes(found: Classes) -> ClassesView | None:
    """What the page shows of each class; None where there are none."""
    measures = {"Clean": "clean"} | _named("Attacked", "attacked", found["attacked"])
    measures |= _named("Certified", "certified", found["certified"])
    rows = [(row["class"], [_share(row, key) for key in measures.values()]) for row in found["rows"]]
    if not rows:
        return None
    columns = list(measures)
    return ClassesView(_figure(columns, rows), columns, rows, _verdict(columns, rows))


def _named(word: str, key: str, measure: Measure | None) -> dict[str, str]:
    if measure is None:
        return {}
    return {f"{word} by {measure['name']}, {budget(measure['norm'], measure['epsilon'])}": key}


def _share(row: ClassRow, key: str) -> Accuracy | None:
    if key == "clean":
        return row["clean"]
    return row["attacked"] if key == "attacked" else row["certified"]


_Rows = Sequence[tuple[str, Sequence[Accuracy | None]]]


def _telling(columns: Sequence[str]) -> int:
    """The attacked column where there is one, else the last."""
    return min(1, len(columns) - 1)


def _verdict(columns: Sequence[str], rows: _Rows) -> str:
    place = _telling(columns)
    measured = [(name, shares[place]) for name, shares in rows]
    known = sorted((share["accuracy"], share["total"], name) for name, share in measured if share)
    if len(known) < 2:
        return ""
    (low, low_total, weakest), (high, high_total, strongest) = known[0], known[-1]
    head = columns[place][0].lower() + columns[place][1:]
    return (
        f"Weakest, {head}, is class {weakest} with {percent(low, low_total)}; "
        f"strongest is {strongest} with {percent(high, high_total)}."
    )


def _figure(columns: Sequence[str], rows: _Rows) -> Figure:
    place = _telling(columns)

    def rank(number: int) -> float:
        share = rows[number][1][place]
        return share["accuracy"] if share else 2.0

    weakest = sorted(range(len(rows)), key=rank)[:_MOST_CLASSES]
    shown = [rows[number] for number in sorted(weakest)]
    dots = [_dots(name, index, shown) for index, name in enumerate(columns)]
    y_axis = axis("class") | {"type": "category", "autorange": "reversed", "dtick": 1}
    figure = go.Figure(dots, layout(axis("share of the class's test examples") | SHARES, y_axis))
    caption = "Accuracy of each class. Bars are 95 % intervals, wide where a class has few examples."
    if len(shown) < len(rows):
        caption += f" Shown are the {len(shown)} weakest of {len(rows)} classes; the table has all."
    return finished(figure, "Accuracy of each class", caption, 150 + 26 * len(shown))


def _dots(name: str, index: int, rows: _Rows) -> go.Scatter:
    known = [(label, share) for label, shares in rows if (share := shares[index]) is not None]
    marker: dict[str, Any] = {"color": COLOURS[index], "symbol": _SYMBOLS[index], "size": 10}
    return go.Scatter(
        name=html.escape(name),
        mode="markers",
        x=[share["accuracy"] for _, share in known],
        y=[html.escape(label) for label, _ in known],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [share["upper"] - share["accuracy"] for _, share in known],
            "arrayminus": [share["accuracy"] - share["lower"] for _, share in known],
            "thickness": 1.2,
            "width": 3,
        },
        text=[
            f"<b>{html.escape(label)}</b><br>{html.escape(name)}: "
            f"{percent(share['accuracy'], share['total'])}<br>95 % interval {interval(share)}"
            for label, share in known
        ],
        hovertemplate="%{text}<extra></extra>",
        cliponaxis=False,
        line={"color": COLOURS[index]},
        marker=marker | {"line": {"width": 2.5 if _SYMBOLS[index].endswith("-open") else 0}},
    )


def view_confusion(found: Confusion) -> ConfusionView | None:
    """What the page shows of confusion; None where there are no classes."""
    names, attacked = found["class_names"], found["attacked"]
    if not names:
        return None
    matrices = [_matrix("Clean images", names, found["clean"])]
    if attacked:
        title = f"Under {attacked['name']}, {budget(attacked['norm'], attacked['epsilon'])}"
        matrices.append(_matrix(title, names, attacked["matrix"]))
    return ConfusionView(names, matrices)


def _matrix(title: str, names: Sequence[str], counts: Sequence[Sequence[int]]) -> Matrix:
    shares = [[number / max(1, sum(row)) for number in row] for row in counts]
    cells = [
        [(count(number), share) for number, share in zip(row, row_shares, strict=True)]
        for row, row_shares in zip(counts, shares, strict=True)
    ]
    wrong = sorted(
        (
            (-number, true, predicted)
            for true, row in enumerate(counts)
            for predicted, number in enumerate(row)
            if number and true != predicted
        )
    )
    mistakes = [
        Mistake(names[true], names[predicted], count(-number), shares[true][predicted])
        for number, true, predicted in wrong[:_MOST_MISTAKES]
    ]
    rows = list(zip(names, cells, strict=False)) if len(names) <= _MOST_NAMES else []
    return Matrix(title, rows, mistakes)
