"""What the page says of the spectral norms of random layers while they trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from withstand.reporting.old_figures import Figure, training_figure
from withstand.reporting.old_history import SPECTRAL, Panel, has_numbers, trace_of
from withstand.reporting.old_read import History
from withstand.reporting.old_wording import cell

__all__ = ["KINDS", "LayerNorms", "SpectralNormsView", "view_spectral_norms"]

KINDS = {
    "sampled": "the mean over draws, by Monte Carlo",
    "surrogate": "what the regulariser makes small, a heuristic with its constant at 1",
    "confidence": "an upper bound by sampling, that holds with the confidence asked for",
    "proven": "the smallest proven upper bound",
}
"""Kinds of norms, as columns spell them, and what each is."""

_WHOLE = "network"
_OF_THE_WHOLE = (
    "The product over all layers. Of upper bounds (confidence, proven) it bounds how far logits move a unit "
    "of ℓ2 distance, on average; sampled and surrogate are estimates and bound nothing."
)
_WIDE = 8.0  # from the smallest to the largest: beyond it the axis is logarithmic


@dataclass(frozen=True)
class LayerNorms:
    """One layer's norms at the last epoch recorded, as texts in the order of the kinds shown."""

    name: str
    numbers: Sequence[str]


@dataclass(frozen=True)
class SpectralNormsView:
    """The section on spectral norms.

    Attributes:
        figures: One a layer; the product over the whole network last.
        kinds: Name and meaning of each kind that was recorded.
        rows: One a figure.
    """

    figures: Sequence[Figure]
    kinds: Sequence[tuple[str, str]]
    rows: Sequence[LayerNorms]


def view_spectral_norms(history: History) -> SpectralNormsView | None:
    """What the page shows of the columns ``spectral/LAYER/KIND``; None where there are none."""
    layers = _layers(history)
    if not layers:
        return None
    kinds = [kind for kind in KINDS if any(kind in columns for columns in layers.values())]
    return SpectralNormsView(
        figures=[training_figure(_panel(history, layer, columns)) for layer, columns in layers.items()],
        kinds=[(kind, KINDS[kind]) for kind in kinds],
        rows=[
            LayerNorms(_title(layer), [cell(_last(history, columns.get(kind))) for kind in kinds])
            for layer, columns in layers.items()
        ],
    )


def _layers(history: History) -> dict[str, dict[str, str]]:
    """Layer -> kind -> column, in the order of the kinds; the whole network last."""
    found: dict[str, dict[str, str]] = {}
    for kind in KINDS:
        for name, values in history.columns.items():
            if name.startswith(SPECTRAL) and name.endswith(f"/{kind}") and has_numbers(values):
                layer = name.removeprefix(SPECTRAL).removesuffix(f"/{kind}")
                found.setdefault(layer, {})[kind] = name
    places = {name: place for place, name in enumerate(history.columns)}
    first = {layer: min(places[column] for column in columns.values()) for layer, columns in found.items()}
    return {layer: found[layer] for layer in sorted(found, key=lambda layer: (layer == _WHOLE, first[layer]))}


def _panel(history: History, layer: str, columns: Mapping[str, str]) -> Panel:
    traces = [trace_of(history, column, kind) for kind, column in columns.items()]
    values = [value for trace in traces for value in trace.values if value is not None]
    is_wide = min(values) > 0 and max(values) > _WIDE * min(values)
    if layer == _WHOLE:
        caption = _OF_THE_WHOLE
    else:
        caption = "The expected spectral norm of the layer's random linear map, after each epoch."
    if is_wide:
        caption += " The axis of norms is logarithmic."
    unit = "product of spectral norms" if layer == _WHOLE else "spectral norm"
    return Panel(_title(layer), caption, traces, is_share=False, unit=unit, is_logarithmic=is_wide)


def _title(layer: str) -> str:
    return "The whole network" if layer == _WHOLE else f"Layer {layer}"


def _last(history: History, column: str | None) -> float | None:
    """The newest number of a column."""
    known = [value for value in history.columns.get(column or "", []) if value is not None]
    return known[-1] if known else None
