"""What of a training is drawn: curves over the epochs done."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import plotly.graph_objects as go

from withstand.reporting.figures import SHARES, axis, chart, hover, logarithmic, series
from withstand.reporting.formatting import cell
from withstand.reporting.read import History
from withstand.reporting.section import Figure

SPECTRAL = "spectral/"
"""How the columns of spectral norms begin, which are drawn apart: ``spectral/LAYER/KIND``."""

_NOT_DRAWN = {"epoch", "progress", "seconds", "collapsed"}
_VALIDATION = "validation_"
_SCORES = ("validation_robust_accuracy", "validation_accuracy")
_MOST_ROWS = 200
_MANY_POINTS = 60
_HOVER_WIDTH = 36
_KINDS = {
    "Loss": "The loss that training minimises, mean of each epoch.",
    "Accuracy": "Accuracies while training.",
    "Epsilon": "The epsilon trained at.",
    "Learning rate": "The optimiser's learning rate.",
    "Other terms": "The objective's terms and what else was recorded.",
}


@dataclass(frozen=True)
class Trace:
    """One curve."""

    name: str
    progress: Sequence[float | None]  # epochs done at each row
    values: Sequence[float | None]  # None leaves a gap, which may be joined
    marks: Mapping[int, str]  # row -> what to say there
    joins_gaps: bool = False
    series: int | None = None  # of several figures, its number in all of them; None is its place in this one


@dataclass(frozen=True)
class Panel:
    """Curves that share an axis."""

    title: str
    caption: str
    traces: Sequence[Trace]
    is_share: bool
    unit: str = ""  # what the axis of values is titled; empty where the heading says it
    is_logarithmic: bool = False  # then all values are above 0


def best_epoch(history: History) -> tuple[int, int] | None:
    """The epoch whose weights training kept as the best, and how many epochs there were; None if unknown.

    That is the last of those with the highest validation accuracy, under attack where that was measured; of
    an epoch that was done again the last row counts. Without validation data it is the last one.
    """
    columns = history.columns
    nothing = [None] * len(history.notes)
    scores = next((columns[name] for name in _SCORES if name in columns), [0.0] * len(history.notes))
    rows = zip(columns.get("epoch", nothing), scores, columns.get("collapsed", nothing), strict=True)
    by_epoch = {int(epoch): (score, bool(fell)) for epoch, score, fell in rows if epoch is not None}
    good = {epoch: score for epoch, (score, fell) in by_epoch.items() if score is not None and not fell}
    return (max(good, key=lambda epoch: (good[epoch], epoch)), max(by_epoch)) if good else None


def panels_of_run(history: History) -> list[Panel]:
    """One panel a kind of column: loss, accuracies, epsilon, learning rate, whatever else."""
    columns = _drawn(history)
    result = []
    for kind, caption in _KINDS.items():
        names = [name for name in columns if _kind(name) == kind]
        if names:
            traces = [trace_of(history, name, _words(name)) for name in names]
            result.append(Panel(kind, caption, traces, kind == "Accuracy"))
    return result


def panels_of_runs(histories: Mapping[str, History]) -> list[Panel]:
    """One panel a column that several runs have, with one curve each; a run's own page shows the others."""
    names = dict.fromkeys(name for history in histories.values() for name in _drawn(history))
    order = list(_KINDS)
    result = []
    for name in sorted(names, key=lambda column: order.index(_kind(column))):
        traces = [
            replace(trace_of(history, name, label), series=series)
            for series, (label, history) in enumerate(histories.items())
            if name in _drawn(history)
        ]
        if len(traces) < min(2, len(histories)):
            continue
        words = _words(name)
        title = f"Logged: {words}" if _kind(name) == "Other terms" else words[:1].upper() + words[1:]
        result.append(Panel(title, "", traces, _kind(name) == "Accuracy"))
    return result


def events(history: History) -> dict[int, str]:
    """Row -> what happened there: a collapse, a note, or both."""
    collapsed = history.columns.get("collapsed", [None] * len(history.notes))
    result = {}
    for row, (flag, note) in enumerate(zip(collapsed, history.notes, strict=True)):
        texts = ["collapsed"] if flag and "collapsed" not in note else []
        texts += [note.strip()] if note.strip() else []
        if texts:
            result[row] = f"Epoch {cell(history.columns['epoch'][row])}: {', '.join(texts)}"
    return result


def history_table(history: History) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the newest epochs, as texts."""
    header = [name for name, values in history.columns.items() if has_numbers(values)]
    columns = [[cell(value) for value in history.columns[name]] for name in header]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return [_words(name) for name in header], rows[-_MOST_ROWS:]


def _drawn(history: History) -> list[str]:
    return [
        name
        for name, values in history.columns.items()
        if name not in _NOT_DRAWN and not name.startswith(SPECTRAL) and has_numbers(values)
    ]


def has_numbers(values: Sequence[float | None]) -> bool:
    """Whether a column holds any number."""
    return any(value is not None for value in values)


def _kind(name: str) -> str:
    if name == "loss":
        return "Loss"
    if name.endswith("accuracy"):
        return "Accuracy"
    if name == "learning_rate":
        return "Learning rate"
    return "Epsilon" if "epsilon" in name else "Other terms"


def _words(name: str) -> str:
    return "KL divergence" if name == "kl" else name.replace("_", " ")


def trace_of(history: History, name: str, label: str) -> Trace:
    """The curve of a column, under the name that the legend calls it."""
    progress = history.columns.get("progress", history.columns["epoch"])
    # Validation scores need not be of every epoch.
    return Trace(label, progress, history.columns[name], events(history), name.startswith(_VALIDATION))


def training_figure(panel: Panel) -> Figure:
    """Curves over the epochs done, with collapsed epochs and notes marked on them."""
    traces = []
    for place, trace in enumerate(panel.traces):
        index = place if trace.series is None else trace.series
        traces.append(_curve(trace, index))
        if trace.marks:
            traces.append(_marks(trace, index))
    says_title = len(panel.traces) == 1 and panel.traces[0].name == panel.title.lower()
    return chart(
        traces,
        panel.title,
        panel.caption,
        x=axis("epochs done"),
        y=axis(panel.unit, **_scale(panel)),
        height=280,
        layout={"showlegend": not says_title},
    )


def _scale(panel: Panel) -> dict[str, Any]:
    values = [value for trace in panel.traces for value in trace.values if value is not None]
    if panel.is_share:
        return SHARES
    if panel.is_logarithmic:
        return logarithmic(values)
    return {"rangemode": "tozero"} if min(values, default=0.0) >= 0 else {}


def _curve(trace: Trace, index: int) -> go.Scatter:
    texts = []
    for row, (done, value) in enumerate(zip(trace.progress, trace.values, strict=True)):
        marks = textwrap.wrap(trace.marks.get(row, ""), _HOVER_WIDTH)
        texts.append(hover(trace.name, f"{cell(done)} epochs done: {cell(value)}", *marks))
    return series(
        trace.name,
        trace.progress,
        trace.values,
        index,
        texts=texts,
        mode="lines+markers" if len(trace.progress) <= _MANY_POINTS else "lines",
        legendgroup=str(index),
        connectgaps=trace.joins_gaps,
    )


def _marks(trace: Trace, index: int) -> go.Scatter:
    rows = [row for row in trace.marks if trace.values[row] is not None]
    return series(
        "",
        [trace.progress[row] for row in rows],
        [trace.values[row] for row in rows],
        index,
        mode="markers",
        legendgroup=str(index),
        showlegend=False,
        marker={"symbol": "circle-x-open", "size": 15, "line": {"width": 2}},
    )
