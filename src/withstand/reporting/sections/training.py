"""The training, epoch by epoch, and the spectral norms of random layers meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from withstand.reporting import history as of_training
from withstand.reporting.formatting import cell
from withstand.reporting.history import SPECTRAL, Panel, training_figure
from withstand.reporting.naming import missing, was_trained_here
from withstand.reporting.read import History, Run
from withstand.reporting.section import PROSE, Figure, Notice, Prose, Section, Table

PLACE = 10
_TEXTS = PROSE["spectral_norms"]
_KINDS = {
    "sampled": "the mean over draws, by Monte Carlo",
    "surrogate": "what the regulariser makes small, a heuristic with its constant at 1",
    "confidence": "an upper bound by sampling, that holds with the confidence asked for",
    "proven": "the smallest proven upper bound",
}
_WHOLE = "network"
_WIDE = 8.0  # from the smallest to the largest: beyond it the axis is logarithmic


def section(run: Run) -> list[Section | None]:
    """What the page shows of the training."""
    return [training(run), spectral_norms(run)]


def training(run: Run) -> Section | None:
    """Figures, collapses and notes, and a table of the newest epochs; None of a network of others."""
    if not was_trained_here(run):
        return None
    parts, history = Section("training", "Training", "training", across=2), run.history
    if history is None:
        lacking = missing(run, "train.csv", "Training has not begun, or the file was removed.")
        return replace(parts, prose=[lacking])
    happenings = list(of_training.events(history).values())
    marked = "Circled crosses in the figures mark these epochs."
    return replace(
        parts,
        prose=[] if history.notes else [Prose("No epoch is finished yet.", "note")],
        figures=[training_figure(panel) for panel in of_training.panels_of_run(history)],
        notices=[Notice("Collapses and notes", happenings, "happenings", marked)] if happenings else [],
        tables=_tables(history),
    )


def _tables(history: History) -> list[Table]:
    header, rows = of_training.history_table(history)
    number = len(history.notes)
    caption = "All epochs."
    if len(rows) < number:
        caption = f"The newest {len(rows)} of {number} epochs; train.csv holds all."
    table = Table("The same numbers as a table", header, rows, caption, is_folded=True, is_tall=True)
    return [table] if rows else []


def spectral_norms(run: Run) -> Section | None:
    """What the columns ``spectral/LAYER/KIND`` of the training hold; None where there are none."""
    history = run.history
    layers = _layers(history) if history else {}
    if history is None or not layers:
        return None
    kinds = [kind for kind in _KINDS if any(kind in columns for columns in layers.values())]
    title, header = "Spectral norms over training", ["Layer", *kinds]
    body = [
        [_title(layer), *(_last(history, columns.get(kind)) for kind in kinds)]
        for layer, columns in layers.items()
    ]
    return Section(
        key="spectral",
        title=title,
        tab="training",
        prose=[Prose(_TEXTS["meaning"])],
        figures=[_spectral_figure(history, layer, columns) for layer, columns in layers.items()],
        tables=[Table(title, header, body, _TEXTS["table"])],
        descriptions=[(kind, _KINDS[kind]) for kind in kinds],
        across=2,
    )


def _layers(history: History) -> dict[str, dict[str, str]]:
    """Layer -> kind -> column; the whole network last."""
    layers: dict[str, dict[str, str]] = {}
    for name, values in history.columns.items():
        layer, _, kind = name.removeprefix(SPECTRAL).rpartition("/")
        if name.startswith(SPECTRAL) and kind in _KINDS and of_training.has_numbers(values):
            layers.setdefault(layer, {})[kind] = name
    return {layer: layers[layer] for layer in sorted(layers, key=lambda layer: layer == _WHOLE)}


def _spectral_figure(history: History, layer: str, columns: Mapping[str, str]) -> Figure:
    traces = [of_training.trace_of(history, columns[kind], kind) for kind in _KINDS if kind in columns]
    values = [value for trace in traces for value in trace.values if value is not None]
    is_wide = min(values) > 0 and max(values) > _WIDE * min(values)
    caption, unit = _TEXTS["layer"], "spectral norm"
    if layer == _WHOLE:
        caption, unit = _TEXTS["network"], "product of spectral norms"
    caption += " The axis of norms is logarithmic." if is_wide else ""
    return training_figure(Panel(_title(layer), caption, traces, False, unit, is_wide))


def _title(layer: str) -> str:
    return "The whole network" if layer == _WHOLE else f"Layer {layer}"


def _last(history: History, column: str | None) -> str:
    """The newest number of a column."""
    known = [value for value in history.columns.get(column or "", []) if value is not None]
    return cell(known[-1] if known else None)
