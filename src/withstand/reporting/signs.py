"""Norms by their signs, wherever texts come from: names of attacks, descriptions, a user's own section."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pandas as pd

from withstand.core.writing import with_signs
from withstand.reporting.read import Run
from withstand.reporting.section import Code, Section
from withstand.results.results import Results

Write = Callable[[str], str]
# What no one reads: keys, links, classes of the style sheet, and images.
_UNSEEN = ("key", "tab", "kind", "href", "measures")
_IMAGE = "data:"
_SEEN_IN_PLOTS = ("name", "text", "hovertext", "ticktext")


def signs_of(runs: Sequence[Run]) -> Write:
    """What writes norms by their signs in texts on some runs, and in the names of their attacks."""
    return with_signs({name for run in runs for name in _names(run.results, run.table)})


def signs_of_results(results: Results, table: pd.DataFrame) -> Write:
    """The same for one evaluation and its table."""
    return with_signs(_names(results, table))


def _names(results: Results | None, table: pd.DataFrame) -> set[str]:
    if results is None:
        return set()
    stages = {stage.name for attack in results.attacks for stage in attack.stages}
    sweep = results.sampling.sweep if results.sampling else None
    return {*map(str, table["by"]), *stages, *([sweep.attack] if sweep else [])}


def signed(sections: Sequence[Section], write: Write) -> list[Section]:
    """Sections with all texts that are read written so; what is typed, such as commands, stays."""
    return [_signed(section, write) for section in sections]


def _signed(part: Any, write: Write) -> Any:
    """A part of a section, whatever it is."""
    if isinstance(part, str):
        return part if part.startswith(_IMAGE) else type(part)(write(part))
    if isinstance(part, dict):
        return _in_plot(part, write)
    if isinstance(part, (list, tuple)):
        return type(part)(_signed(each, write) for each in part)
    if is_dataclass(part) and not isinstance(part, (Code, type)):
        names = [field.name for field in fields(part) if field.name not in _UNSEEN]
        return replace(part, **{name: _signed(getattr(part, name), write) for name in names})
    return part


def _in_plot(plot: Any, write: Write, key: str = "") -> Any:
    """A plot's names, texts and titles; the rest of its values stay."""
    if isinstance(plot, dict):
        return {name: _in_plot(value, write, name) for name, value in plot.items()}
    if isinstance(plot, list):
        return [_in_plot(value, write, key) for value in plot]
    return write(plot) if isinstance(plot, str) and key in _SEEN_IN_PLOTS else plot
