"""The sections of a run's page, a file each.

A module here has ``section(run)``, which gives a ``Section``, several, or None, and ``PLACE``, its place
among those of the same tab. The page finds it by itself.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import get_args

from withstand.reporting.read import Run
from withstand.reporting.section import Section, Tab
from withstand.types import RunFolderError

__all__ = ["sections_of"]

_Made = Section | list[Section] | None


def sections_of(run: Run) -> list[Section]:
    """All sections of a run's page, by tab and place; at the end of their tab those of the user's own meters.

    Raises:
        RunFolderError: a section of the user's own cannot be imported or made.
    """
    makers: list[Callable[[Run], _Made] | str]
    makers = [*_own_modules(), *(run.results.sections if run.results else [])]
    made = [section for maker in makers for section in _made(maker, run)]
    shown = {measure for section in made for measure in section.measures}
    other = importlib.import_module(f"{__name__}.other").section(run, shown)
    tabs = get_args(Tab)
    return sorted([*made, *_listed(other)], key=lambda section: tabs.index(section.tab))


def _own_modules() -> list[Callable[[Run], _Made]]:
    """The sections in this package, by place; all but what is drawn of the rest."""
    names = [info.name for info in pkgutil.iter_modules(__path__) if info.name != "other"]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    modules = [module for module in modules if hasattr(module, "PLACE")]
    return [module.section for module in sorted(modules, key=lambda module: module.PLACE)]


def _made(maker: Callable[[Run], _Made] | str, run: Run) -> list[Section]:
    if not isinstance(maker, str):
        return _listed(maker(run))
    module, _, function = maker.partition(":")
    try:
        made = _listed(getattr(importlib.import_module(module), function)(run))
    except Exception as error:  # whatever the user's code raises
        raise RunFolderError(
            f"The section {maker}, which {run.path} asks for, cannot be made: "
            f"{type(error).__name__}: {error}. "
            "Put its module where Python finds it, or take it out of the sections in metrics.json."
        ) from error
    if strangers := [part for part in made if not isinstance(part, Section)]:
        raise RunFolderError(f"{maker} made {strangers[0]!r}, but a section is withstand.reporting.Section.")
    return made


def _listed(made: _Made) -> list[Section]:
    if made is None:
        return []
    return list(made) if isinstance(made, Iterable) else [made]
