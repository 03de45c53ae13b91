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
    if classes.attacked and classes.confusion.attacked:
        at = budget(classes.attacked.norm, classes.attacked.epsilon)
        matrices[f"Under {classes.attacked.name}, {at}"] = classes.confusion.attacked
    drawn = _matrix if len(classes.class_names) <= _MOST_NAMES else _mistakes_table
    return Section(
        key="confusion",
        title="What is taken for what",
        tab="answers",
        tables=[drawn(title, classes.class_names, counts) for title, counts in matrices.items()],
    )


def _mistakes(counts: _Counts) -> list[tuple[int, int, int]]:
    """How many images of which class were taken for which other, the most frequent first."""
    wrong = [
        (-number, true, predicted)
        for true, row in enumerate(counts)
        for predicted, number in enumerate(row)
        if number and true != predicted
    ]
    return [(-number, true, predicted) for number, true, predicted in sorted(wrong)[:_MOST_MISTAKES]]


def _matrix(title: str, names: Sequence[str], counts: _Counts) -> Table:
    told = [
        f"{names[true]} taken for {names[predicted]} ({count(number)})"
        for number, true, predicted in _mistakes(counts)[:_MOST_TOLD]
    ]
    said = f"Most often: {', '.join(told)}." if told else _NO_MISTAKE
    rows = [
        [
            Cell(names[true]),
            *(_cell(number, sum(row), is_right=true == place) for place, number in enumerate(row)),
        ]
        for true, row in enumerate(counts)
    ]
    return Table(title, ["True", *names], rows, f"{_MATRIX} {said}", kind="confusion")


def _cell(number: int, total: int, *, is_right: bool) -> Cell:
    return Cell(count(number), shade=number / max(1, total), kind="right-answer" if is_right else "")


def _mistakes_table(title: str, names: Sequence[str], counts: _Counts) -> Table:
    rows = [
        [
            Cell(names[true]),
            Cell(names[predicted], is_words=True),
            Cell(count(number)),
            Cell(percent(number / max(1, sum(counts[true])))),
        ]
        for number, true, predicted in _mistakes(counts)
    ]
    header = ["True class", "Taken for", "Images", "Share of the class"] if rows else []
    caption = f"The most frequent mistakes; {len(names)} classes are too many for a matrix."
    return Table(title, header, rows, caption if rows else _NO_MISTAKE, kind="mistakes")
