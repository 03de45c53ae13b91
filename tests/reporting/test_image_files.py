"""Figures as files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from withstand.reporting import export_figures, image_files
from withstand.reporting.compare import compare_sections
from withstand.reporting.image_files import figures_in
from withstand.reporting.sections import sections_of
from withstand.types import RunFolderError

WriteRun = Callable[..., Path]


def test_figures_in_sections_have_the_order_of_the_page(make_run: Callable[..., Any]) -> None:
    runs = [make_run(name) for name in ("one", "two")]
    assert [figure.title for figure in figures_in(sections_of(runs[0]))][:2] == [
        "Accuracy against ε, ℓ∞",
        "Loss",
    ]
    titles = [figure.title for figure in figures_in(compare_sections(runs))]
    assert "Clean accuracy, against training time" in titles
    assert len(titles) == len(set(titles))


def test_export_figures_writes_files(
    write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}

    def draw(plots: list[Any], files: list[Path], **options: Any) -> None:
        drawn.update(plots=plots, files=files, options=options)

    monkeypatch.setattr("plotly.io.write_images", draw)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    files = export_figures([write_run()], tmp_path / "figures", "png")
    assert files[0].name == "01-accuracy-against-epsilon-linf.png"
    assert files == drawn["files"]
    assert files[0].parent.is_dir()
    assert drawn["options"]["scale"] == 2
    layout = drawn["plots"][0]["layout"]
    assert layout["paper_bgcolor"] == "#ffffff"
    assert layout["xaxis"]["gridcolor"] == "#d9dde4"


def test_export_figures_says_what_is_wrong(
    write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunFolderError, match="no run folder"):
        export_figures([], tmp_path)
    folder = write_run()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RunFolderError, match=r"withstand\[figures\]"):
        export_figures([folder], tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("\nno browser\nat all")

    monkeypatch.setattr("plotly.io.write_images", fail)
    with pytest.raises(RunFolderError, match=r"no browser Kaleido needs Chrome"):
        export_figures([folder], tmp_path)


def test_export_figures_leaves_figures_as_they_are(evaluated: Any) -> None:
    figure = next(figures_in(sections_of(evaluated.run())))
    before = json.dumps(figure.plot)
    assert image_files._on_white(figure)["layout"]["plot_bgcolor"] == "#ffffff"
    assert json.dumps(figure.plot) == before
