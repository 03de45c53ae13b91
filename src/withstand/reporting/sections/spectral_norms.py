"""The spectral norms of random layers while they trained."""

from __future__ import annotations

from collections.abc import Mapping

from withstand.reporting.history import SPECTRAL, Panel, has_numbers, trace_of, training_figure
from withstand.reporting.read import History, Run
from withstand.reporting.section import Figure, Prose, Section, Table
from withstand.reporting.wording import cell

PLACE = 20
_KINDS = {
    "sampled": "the mean over draws, by Monte Carlo",
    "surrogate": "what the regulariser makes small, a heuristic with its constant at 1",
    "confidence": "an upper bound by sampling, that holds with the confidence asked for",
    "proven": "the smallest proven upper bound",
}
_WHOLE = "network"
_MEANING = "The expected spectral norm of each random layer, of the linear map itself at its true input size."
_OF_THE_WHOLE = (
    "The product over all layers. Of upper bounds (confidence, proven) it bounds how far logits move a unit "
    "of ℓ2 distance, on average; sampled and surrogate are estimates and bound nothing."
)
_OF_A_LAYER = "The expected spectral norm of the layer's random linear map, after each epoch."
_TABLE = "At the last epoch recorded; the table of the training holds every epoch."
_WIDE = 8.0  # from the smallest to the largest: beyond it the axis is logarithmic


def section(run: Run) -> Section | None:
    """What the columns ``spectral/LAYER/KIND`` of the training hold; None where there are none."""
    history = run.history
    layers = _layers(history) if history else {}
    if history is None or not layers:
        return None
    kinds = [kind for kind in _KINDS if any(kind in columns for columns in layers.values())]
    body = [
        [_title(layer), *(_last(history, columns.get(kind)) for kind in kinds)]
        for layer, columns in layers.items()
    ]
    return Section(
        key="spectral",
        title="Spectral norms over training",
        tab="training",
        prose=[Prose(_MEANING)],
        figures=[_figure(history, layer, columns) for layer, columns in layers.items()],
        tables=[Table("Spectral norms over training", ["Layer", *kinds], body, _TABLE)],
        descriptions=[(kind, _KINDS[kind]) for kind in kinds],
        across=2,
    )


def _layers(history: History) -> dict[str, dict[str, str]]:
    """Layer -> kind -> column; the whole network last."""
    layers: dict[str, dict[str, str]] = {}
    for name, values in history.columns.items():
        layer, _, kind = name.removeprefix(SPECTRAL).rpartition("/")
        if name.startswith(SPECTRAL) and kind in _KINDS and has_numbers(values):
            layers.setdefault(layer, {})[kind] = name
    return {layer: layers[layer] for layer in sorted(layers, key=lambda layer: layer == _WHOLE)}


def _figure(history: History, layer: str, columns: Mapping[str, str]) -> Figure:
    traces = [trace_of(history, columns[kind], kind) for kind in _KINDS if kind in columns]
    values = [value for trace in traces for value in trace.values if value is not None]
    is_wide = min(values) > 0 and max(values) > _WIDE * min(values)
    caption, unit = _OF_A_LAYER, "spectral norm"
    if layer == _WHOLE:
        caption, unit = _OF_THE_WHOLE, "product of spectral norms"
    caption += " The axis of norms is logarithmic." if is_wide else ""
    return training_figure(Panel(_title(layer), caption, traces, False, unit, is_wide))


def _title(layer: str) -> str:
    return "The whole network" if layer == _WHOLE else f"Layer {layer}"


def _last(history: History, column: str | None) -> str:
    """The newest number of a column."""
    known = [value for value in history.columns.get(column or "", []) if value is not None]
    return cell(known[-1] if known else None)
