"""What is taken for what."""

from __future__ import annotations

from collections.abc import Sequence

from withstand.reporting.read import Run
from withstand.reporting.section import Cell, Section, Table
from withstand.reporting.wording import budget, count, percent

__all__ = ["PLACE", "section"]

PLACE = 20
_MOST_NAMES = 20  # of a matrix that can be read
_MOST_MISTAKES = 12
_MOST_TOLD = 3  # below a matrix
_MATRIX = (
    "Test images of each true class (rows) by predicted class (columns). A deeper ground is a larger share "
    "of the row; right answers are framed."
)
_NO_MISTAKE = "No image was taken for another class."

_Counts = Sequence[Sequence[int]]


def section(run: Run) -> Section | None:
    """Counts of images, a row a true class, a column a predicted one; of many classes the mistakes alone."""
    classes = run.results.classes if run.results else None
    if classes is None or not classes.class_names:
        return None
    matrices = {"Clean images": classes.confusion.clean}
    if (at := classes.attacked) and classes.confusion.attacked:
        matrices[f"Under {at.name}, {budget(at.norm, at.epsilon)}"] = classes.confusion.attacked
    drawn = _matrix if len(classes.class_names) <= _MOST_NAMES else _mistakes_table
    tables = [drawn(title, classes.class_names, counts) for title, counts in matrices.items()]
    return Section("confusion", "What is taken for what", "answers", tables=tables)


def _mistakes(names: Sequence[str], counts: _Counts) -> list[tuple[str, str, int, float]]:
    """True class, predicted class, how many images and which share of the class; the most frequent first."""
    wrong = [
        (-number, true, predicted)
        for true, row in enumerate(counts)
        for predicted, number in enumerate(row)
        if number and true != predicted
    ]
    return [
        (names[true], names[predicted], -number, -number / sum(counts[true]))
        for number, true, predicted in sorted(wrong)[:_MOST_MISTAKES]
    ]


def _matrix(title: str, names: Sequence[str], counts: _Counts) -> Table:
    mistakes = _mistakes(names, counts)[:_MOST_TOLD]
    told = ", ".join(f"{true} taken for {taken} ({count(number)})" for true, taken, number, _ in mistakes)
    body = []
    for true, row in enumerate(counts):
        kinds = ["right-answer" if place == true else "" for place in range(len(row))]
        total = max(1, sum(row))
        cells = [Cell(count(n), shade=n / total, kind=kind) for n, kind in zip(row, kinds, strict=True)]
        body.append([Cell(names[true]), *cells])
    caption = f"{_MATRIX} Most often: {told}." if told else f"{_MATRIX} {_NO_MISTAKE}"
    return Table(title, ["True", *names], body, caption, kind="confusion")


def _mistakes_table(title: str, names: Sequence[str], counts: _Counts) -> Table:
    body = [
        [Cell(true), Cell(taken, is_words=True), Cell(count(number)), Cell(percent(share))]
        for true, taken, number, share in _mistakes(names, counts)
    ]
    header = ["True class", "Taken for", "Images", "Share of the class"] if body else []
    caption = f"The most frequent mistakes; {len(names)} classes are too many for a matrix."
    return Table(title, header, body, caption if body else _NO_MISTAKE, kind="mistakes")
