"""The page's figures as SVG or PNG files, drawn by a browser that nobody sees."""

from __future__ import annotations

import copy
import importlib.util
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import plotly.io

from withstand.reporting.compare import compare_sections
from withstand.reporting.read import read_run
from withstand.reporting.section import Figure, Section
from withstand.reporting.sections import sections_of
from withstand.reporting.signs import signed, signs_of
from withstand.types import RunFolderError

ImageFormat = Literal["svg", "png"]

_WIDTH = 900
_SCALE = 2  # of PNG, for paper
_INK, _GRID = "#1b1f27", "#d9dde4"  # as the page prints
_WORDS = {"ℓ": "l", "∞": "inf", "ε": "epsilon", "₁": "1", "₂": "2"}


def export_figures(
    run_dirs: Sequence[Path | str], out_dir: Path | str, image_format: ImageFormat = "svg"
) -> list[Path]:
    """Writes the figures of one run, or those that hold several beside each other, on white.

    Args:
        run_dirs: The run folders, at least one.
        out_dir: The folder for the files, which are numbered as on the page.
        image_format: ``svg`` or ``png``.

    Returns:
        The paths written.

    Raises:
        RunFolderError: there is no run folder, one is missing or damaged, kaleido or a browser for it is not
            installed, or the files cannot be written.
    """
    runs = [read_run(folder) for folder in run_dirs]
    if not runs:
        raise RunFolderError("There is no run folder to draw figures of. Name at least one.")
    if importlib.util.find_spec("kaleido") is None:
        raise RunFolderError(
            "Figures as files need the package kaleido, which is not installed: "
            "pip install 'withstand[figures]'. The page itself needs neither."
        )
    sections = compare_sections(runs) if len(runs) > 1 else sections_of(runs[0])
    figures = list(figures_in(signed(sections, signs_of(runs))))
    folder = Path(out_dir)
    files = [
        folder / f"{number:02d}-{_slug(figure.title)}.{image_format}"
        for number, figure in enumerate(figures, start=1)
    ]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if figures:
            plotly.io.write_images(
                [_on_white(figure) for figure in figures],
                files,
                width=_WIDTH,
                height=[figure.height + 40 for figure in figures],
                scale=_SCALE if image_format == "png" else 1,
            )
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise RunFolderError(
            f"The figures could not be drawn into {folder}: {reason} Kaleido needs Chrome or Chromium; "
            "BROWSER_PATH names it where it is not found."
        ) from error
    return files


def figures_in(sections: Sequence[Section]) -> Iterator[Figure]:
    """Every figure of some sections, in the order in which the page draws them."""
    for section in sections:
        for choice in section.choices:
            yield from figures_in(choice.options)
        yield from section.figures


def _on_white(figure: Figure) -> dict[str, Any]:
    plot = copy.deepcopy(figure.plot)
    layout = plot["layout"]
    layout |= {"paper_bgcolor": "#ffffff", "plot_bgcolor": "#ffffff", "autosize": False}
    layout |= {"margin": {"l": 16, "r": 20, "t": 20, "b": 16}}
    layout["font"] = layout.get("font", {}) | {"color": _INK}
    for name in [key for key in layout if re.fullmatch(r"[xy]axis\d*", key)]:
        layout[name] |= {"gridcolor": _GRID, "linecolor": _GRID, "tickcolor": _GRID}
    return plot


def _slug(title: str) -> str:
    words = "".join(_WORDS.get(letter, letter) for letter in unicodedata.normalize("NFC", title))
    return re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-.")[:80] or "figure"
