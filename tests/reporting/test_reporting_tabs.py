"""How the sections of a run are spread over tabs, before any script runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from withstand.reporting import report

WriteRun = Callable[..., Path]


@pytest.fixture(autouse=True)
def _short_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("withstand.reporting.page.plotly_script", lambda: "")


def panels(page: str) -> dict[str, str]:
    """Key of each panel of the only run -> its HTML."""
    parts = re.split(r'<div class="panel" id="run-part-(\w+)">', page)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def tabs(page: str) -> dict[str, str]:
    """Id of each tab's panel -> its words."""
    return dict(
        re.findall(r'<button type="button" id="[\w-]+" aria-controls="([\w-]+)">([^<]+)</button>', page)
    )


def test_tabs_hold_every_section(write_run: WriteRun, everything: Any, extremes: dict[str, Any]) -> None:
    panel_texts = panels(
        report(write_run(evaluated=everything, extremes=extremes)).read_text(encoding="utf-8")
    )
    headings = {key: re.findall(r'<h2 id="run-([\w-]+)"', text) for key, text in panel_texts.items()}
    assert headings == {
        "summary": ["results", "checks", "accuracy"],
        "attacks": ["suite"],
        "proven": ["extremes", "smoothing"],
        "noise": ["corruptions"],
        "answers": ["classes", "confusion", "calibration"],
        "training": ["training"],
        "examples": ["gallery"],
        "about": ["cost", "environment", "again"],
    }


def test_tabs_without_content_are_left_out(write_run: WriteRun) -> None:
    page = report(write_run()).read_text(encoding="utf-8")
    assert tabs(page) == {
        "run-part-summary": "Summary",
        "run-part-training": "Training",
        "run-part-examples": "Examples",
        "run-part-about": "About",
    }
    assert list(panels(page)) == ["summary", "training", "examples", "about"]


def test_panels_all_show_without_scripts(write_run: WriteRun, everything: Any) -> None:
    page = report(write_run(evaluated=everything)).read_text(encoding="utf-8")
    body = page[page.index("<main") : page.index("</main>")]
    assert re.findall(r"<[^>]* hidden>", body) == [
        '<div class="tabs" data-tabs aria-label="Parts of tiny" hidden>'
    ]
    assert 'role="tab' not in body  # the script gives these roles, which promise what only it can keep


def test_tabs_belong_to_their_run(write_run: WriteRun, everything: Any, tmp_path: Path) -> None:
    folders = [write_run("one", evaluated=everything), write_run("two")]
    page = report(folders, tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("data-tabs") - page.count("[data-tabs]") == 2
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(tabs(page)) <= set(ids)
    assert "run-1-part-attacks" in ids
    assert "run-2-part-attacks" not in ids
