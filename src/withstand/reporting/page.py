"""From run folders to one self-contained HTML page."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from withstand.core.folder_path import as_folder_path
from withstand.core.run_folder import RunFolder
from withstand.reporting.compare import compare_sections
from withstand.reporting.compare.comparison import Comparison
from withstand.reporting.figures import COLOURS, ON_DARK
from withstand.reporting.find import write_text
from withstand.reporting.naming import (
    command_for,
    run_changes,
    run_description,
    run_labels,
    run_title,
    setting,
)
from withstand.reporting.read import Run, read_run
from withstand.reporting.section import Section, Tab
from withstand.reporting.sections import sections_of
from withstand.reporting.signs import Write, signed, signs_of
from withstand.types import RunFolderError

_OWN = (
    b'<meta name="generator" content="withstand">',
    b'<div class="tabbed">',
)  # the latter of older versions
_TITLES: dict[Tab, str] = {
    "summary": "Summary",
    "attacks": "Attacks",
    "proven": "Certificates",
    "noise": "Noise",  # and corruptions, where there are any
    "answers": "Classes and confidence",
    "training": "Training",
    "examples": "Examples",
    "about": "About",
}


def report(
    run_dirs: Path | str | Sequence[Path | str], out: Path | str | None = None, *, title: str | None = None
) -> Path:
    """Writes one HTML page of one or several runs; it opens offline, in any browser.

    The page shows what the folders hold, and for what they lack the command that makes it.
    It is written beside its place and then moved there, so no half page is ever seen.

    Args:
        run_dirs: The run folders, at least one; a single one may stand alone.
        out: The page's path; by default ``report.html`` in the only run folder.
        title: The page's heading; by default the recipe's title.

    Returns:
        The path written.

    Raises:
        RunFolderError: there is no run folder, several without ``out``, one is missing or
            damaged, or the page cannot be written.
    """
    folders = [run_dirs] if isinstance(run_dirs, (str, Path)) else list(run_dirs)
    target = _target(folders, out)
    write_text(target, _render([read_run(folder) for folder in folders], title))
    return target


def _target(folders: Sequence[Path | str], out: Path | str | None) -> Path:
    if not folders:
        raise RunFolderError("There is no run folder to report. Name at least one.")
    if out is None and len(folders) > 1:
        raise RunFolderError(
            f"A report of {len(folders)} run folders belongs to none of them. "
            "Say where it goes: --out PAGE.html"
        )
    target = RunFolder(Path(folders[0])).report if out is None else as_folder_path(out)
    if target.is_dir():
        raise RunFolderError(
            f"{target} is a folder, but the report is a file. Try --out {target / 'report.html'}"
        )
    if target.is_file() and not any(mark in target.read_bytes() for mark in _OWN):
        raise RunFolderError(
            f"{target} was not written by this package and would be replaced. Name another page with --out."
        )
    return target


def _render(runs: Sequence[Run], title: str | None) -> str:
    is_alone, are_many = len(runs) == 1, Comparison(runs).are_many
    labels = enumerate(zip(runs, run_labels(runs), strict=True), start=1)
    write = signs_of(runs)
    views = [
        _view(run, label, "run" if is_alone else f"run-{number}", write, is_brief=are_many)
        for number, (run, label) in labels
    ]
    return page_of(
        title or (str(views[0]["title"]) if is_alone else f"{len(runs)} runs compared"),
        views,
        compared=None if is_alone else signed(compare_sections(runs), write),
        are_many=are_many,
        is_certified=any(run.results.certificates for run in runs if run.results),
    )


def page_of(
    title: str,
    views: Sequence[Mapping[str, object]],
    *,
    compared: Sequence[Section] | None = None,
    are_many: bool = False,
    is_certified: bool = False,
) -> str:
    """A page of one view, or of several with what compares them; ``page.html.j2`` says what a view holds."""
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            title=title,
            views=views,
            compared=compared,
            are_many=are_many,
            is_certified=is_certified,
            on_dark=dict(zip(COLOURS, ON_DARK, strict=True)),
            plotly_script=plotly_script(),
        )
    )


def _view(run: Run, label: str, key: str, write: Write, *, is_brief: bool) -> dict[str, object]:
    """What the page shows of one run; ``command`` writes a page of it alone."""
    sections = signed([part for part in sections_of(run) if part.is_brief or not is_brief], write)
    noise = "Noise and corruptions" if any(section.key == "corruptions" for section in sections) else "Noise"
    tabs = [
        {"key": tab, "title": title, "sections": [section for section in sections if section.tab == tab]}
        for tab, title in (_TITLES | {"noise": noise}).items()
    ]
    title = run_title(run)
    return {
        "id": key,
        "label": label,
        "title": write(title),
        "setting": setting(run).removeprefix(title).lstrip(", "),
        "description": write(run_description(run) or ""),
        "changes": run_changes(run),
        "command": command_for(run, "report"),
        "tabs": [tab for tab in tabs if tab["sections"]],
    }


@functools.cache
def plotly_script() -> str:
    """Plotly's basic bundle, which draws scatter, bar and pie alone and is a quarter of the whole.

    It is that of version 4.1.1 of plotly.js, from ``plotly.js-basic-dist-min`` of npm.
    """
    return (files("withstand.reporting") / "vendor" / "plotly-basic.min.js").read_text(encoding="utf-8")


@functools.cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("withstand.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
