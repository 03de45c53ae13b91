"""Vectors and series before and after an attack: the features most changed, or lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from markupsafe import Markup

from withstand.core.answers import NO_ANSWER
from withstand.core.writing import epsilon_text
from withstand.reporting.figures import axis, chart, reference, series
from withstand.reporting.formatting import cell
from withstand.reporting.images import Attacked, AttackedValues
from withstand.reporting.section import PROSE, Cell, Figure, Prose, Section, Table

_MOST_VECTORS = 12
_MOST_FEATURES = 5  # of a vector
_MOST_SERIES = 6


def with_values(parts: Section, examples: AttackedValues) -> Section:
    """The section with what an attack changed in vectors or series."""
    is_series = examples.clean.ndim == 3
    number = min(_MOST_FEATURES, examples.clean.shape[1])
    changed = np.flatnonzero(np.abs(examples.share).reshape(len(examples.label), -1).max(axis=1)).tolist()
    lead = Markup(PROSE["gallery"]["series" if is_series else "vectors"]).format(
        attack=examples.attack,
        epsilon=epsilon_text(examples.epsilon),
        number=number,
        total=len(examples.label),
        changed=len(changed),
    )
    shown = changed[: _MOST_SERIES if is_series else _MOST_VECTORS]
    if len(changed) > len(shown):
        lead += Markup(" {} more are in <code>gallery.npz</code>.").format(len(changed) - len(shown))
    parts = replace(parts, prose=[Prose(lead)])
    if not shown:
        return parts
    if is_series:
        return replace(parts, figures=[_line(examples, index) for index in shown], across=2)
    return replace(parts, tables=[_table(examples, shown, number)])


def answer(examples: Attacked, predicted: int) -> str:
    """The class that was predicted, in words."""
    return "no answer" if predicted == NO_ANSWER else examples.class_names[predicted]


def _table(examples: AttackedValues, shown: Sequence[int], number: int) -> Table:
    rows = [row for index in shown for row in _rows(examples, index, number)]
    header = ["Example", "Class", "Predicted", "Attacked", "Feature", "Before", "After", "Of its range"]
    return Table("The features changed most", header, rows)


def _rows(examples: AttackedValues, index: int, number: int) -> list[list[Cell | str]]:
    share = examples.share[index]
    most = np.argsort(-np.abs(share), kind="stable")[:number]
    answers = [
        examples.label[index],
        examples.clean_prediction[index],
        examples.adversarial_prediction[index],
    ]
    words = [Cell(answer(examples, int(given)), is_words=True) for given in answers]
    return [
        [
            str(index + 1),
            *words,
            Cell(examples.feature_names[feature], is_words=True),
            cell(float(examples.clean[index, feature])),
            cell(float(examples.adversarial[index, feature])),
            f"{share[feature]:+.4f}",
        ]
        for feature in most.tolist()
    ]


def _line(examples: AttackedValues, index: int) -> Figure:
    channel = int(np.abs(examples.share[index]).max(axis=1).argmax())
    before, after = (
        [float(f"{value:.6g}") for value in values[index, channel]]
        for values in (examples.clean, examples.adversarial)
    )
    steps = range(len(before))
    traces = [
        reference("before", steps, before, dash="solid"),
        series("after the attack", steps, after, 1, mode="lines"),
    ]
    true, clean, attacked = (
        answer(examples, int(given[index]))
        for given in (examples.label, examples.clean_prediction, examples.adversarial_prediction)
    )
    name = examples.feature_names[channel]
    title = f"Example {index + 1} of class {true}"
    caption = f"Predicted {clean} before the attack and {attacked} after it; {name}."
    return chart(traces, title, caption, x=axis("step"), y=axis(name, rangemode="normal"), height=220)
