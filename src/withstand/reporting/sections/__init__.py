"""The sections of a run's page, those on one subject in a file.

A module here has ``section(run)``, which gives a ``Section``, several, or None, and ``PLACE``, its place
among those of the same tab. The page finds it by itself.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import get_args

from withstand.core.run_folder import RunFolder
from withstand.core.trust import is_trusted, refusal
from withstand.reporting.read import Run
from withstand.reporting.section import Section, Tab
from withstand.reporting.sections import other
from withstand.types import RunFolderError

__all__ = ["sections_of"]


def sections_of(run: Run) -> list[Section]:
    """All sections of a run's page, by tab and place; at the end of their tab those of the user's own meters.

    Raises:
        RunFolderError: a section of the user's own cannot be imported or made, or must not run.
    """
    modules = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    placed = sorted(
        (module for module in modules if hasattr(module, "PLACE")), key=lambda module: module.PLACE
    )
    all_sections = [section for module in placed for section in _listed(module.section(run))]
    all_sections += [
        section for name in (run.results.sections if run.results else []) for section in _own(name, run)
    ]
    shown = {measure for section in all_sections for measure in section.measures}
    tabs = get_args(Tab)
    return sorted(
        [*all_sections, *_listed(other.section(run, shown))], key=lambda section: tabs.index(section.tab)
    )


def _own(name: str, run: Run) -> list[Section]:
    """What a function of the user's makes, which ``module:function`` names."""
    metrics = RunFolder(run.path).metrics
    if not is_trusted(metrics):
        raise RunFolderError(refusal(metrics, name))
    module, _, function = name.partition(":")
    try:
        own_sections = _listed(getattr(importlib.import_module(module), function)(run))
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise RunFolderError(
            f"The section {name}, which {run.path} asks for, cannot be made: "
            f"{type(error).__name__}: {error}. "
            "Put its module where Python finds it, or take it out of the sections in metrics.json."
        ) from error
    if strangers := [part for part in own_sections if not isinstance(part, Section)]:
        raise RunFolderError(f"{name} made {strangers[0]!r}, but a section is withstand.reporting.Section.")
    return own_sections


def _listed(sections: Section | Sequence[Section | None] | None) -> list[Section]:
    several = sections if isinstance(sections, Sequence) else [sections]
    return [section for section in several if section is not None]
