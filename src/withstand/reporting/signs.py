"""Norms by their signs, wherever texts come from: names of attacks, descriptions, a user's own section."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from withstand.reporting.read import Run
from withstand.reporting.section import Code, Section
from withstand.results.results import Results
from withstand.results.writing import with_signs

Write = Callable[[str], str]
_Part = TypeVar("_Part")
# What no one reads: keys, links, classes of the style sheet, and images.
_UNSEEN = ("key", "tab", "kind", "href", "measures")
_IMAGE = "data:"
_SEEN_IN_PLOTS = ("name", "text", "hovertext", "ticktext")


def signs_of(runs: Sequence[Run]) -> Write:
    """What writes norms by their signs in texts on some runs, and in the names of their attacks."""
    return with_signs({name for run in runs for name in _names(run.results, run.table.by)})


def signs_of_results(results: Results, names: Sequence[str]) -> Write:
    """The same for one evaluation, whose table is by these names."""
    return with_signs(_names(results, names))


def _names(results: Results | None, by: Sequence[str]) -> set[str]:
    if results is None:
        return set()
    stages = {stage.name for attack in results.attacks for stage in attack.stages}
    sweep = results.sampling.sweep if results.sampling else None
    return {*map(str, by), *stages, *([sweep.attack] if sweep else [])}


def signed(sections: Sequence[Section], write: Write) -> list[Section]:
    """Sections with all texts that are read written so; what is typed, such as commands, stays."""
    return [_signed(section, write) for section in sections]


def _signed(part: _Part, write: Write) -> _Part:
    """A part of a section, whatever it is."""
    whole: Any = part
    if isinstance(whole, str):
        return part if whole.startswith(_IMAGE) else type(whole)(write(whole))
    if isinstance(whole, dict):
        return _in_plot(whole, write)
    if isinstance(whole, (list, tuple)):
        return type(whole)(_signed(each, write) for each in whole)
    if is_dataclass(whole) and not isinstance(whole, (Code, type)):
        names = [field.name for field in fields(whole) if field.name not in _UNSEEN]
        return replace(whole, **{name: _signed(getattr(whole, name), write) for name in names})
    return part


def _in_plot(plot: Any, write: Write, key: str = "") -> Any:
    """A plot's names, texts and titles; the rest of its values stay."""
    if isinstance(plot, dict):
        return {name: _in_plot(value, write, name) for name, value in plot.items()}
    if isinstance(plot, list):
        return [_in_plot(value, write, key) for value in plot]
    return write(plot) if isinstance(plot, str) and key in _SEEN_IN_PLOTS else plot
