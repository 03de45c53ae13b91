"""From run folders to one self-contained HTML page."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from withstand.reporting import old_wording as wording
from withstand.reporting.compared import view_runs
from withstand.reporting.old_read import Run, read_run
from withstand.reporting.summary import command_for, run_labels
from withstand.reporting.views import view_run
from withstand.run_folder import RunFolder, replaced
from withstand.types import RunFolderError

__all__ = ["report"]


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
    _write(target, _render([read_run(folder) for folder in folders], title))
    return target


def _target(folders: Sequence[Path | str], out: Path | str | None) -> Path:
    if not folders:
        raise RunFolderError("There is no run folder to report. Name at least one.")
    if out is None and len(folders) > 1:
        raise RunFolderError(
            f"A report of {len(folders)} run folders belongs to none of them. "
            "Say where it goes: --out PAGE.html"
        )
    target = RunFolder(Path(folders[0])).report if out is None else Path(out)
    if target.is_dir():
        raise RunFolderError(
            f"{target} is a folder, but the report is a file. Try --out {target / 'report.html'}"
        )
    return target


def _render(runs: Sequence[Run], title: str | None) -> str:
    views = [view_run(run, label) for run, label in zip(runs, run_labels(runs), strict=True)]
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            title=title or (views[0].title if len(views) == 1 else f"{len(views)} runs compared"),
            views=views,
            compare=view_runs(runs) if len(views) > 1 else None,
            plotly_script=get_plotlyjs(),
        )
    )


@functools.cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("withstand.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": wording.percent,
        "as_published": wording.as_published,
        "interval": wording.interval,
        "budget": wording.budget,
        "epsilon": wording.epsilon_text,
        "norm": wording.norm_text,
        "count": wording.count,
        "sentence": wording.sentence,
        "dataset": wording.dataset_title,
        "command": command_for,
    }
    return environment


def _write(target: Path, page: str) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"Cannot make the folder {target.parent}: {error.strerror}.") from error
    with replaced(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
