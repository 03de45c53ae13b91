"""The checks themselves find what is at fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_HEAD = "<!doctype html><html lang='en'><meta charset='utf-8'><style>body { margin: 0 }</style>"
_FAULTS = {
    "overflow": "<div style='width: 3000px'>wide</div>",
    "cut": "<h2 style='width: 3rem; overflow: hidden; white-space: nowrap'>Too long for it</h2>",
    "figures": "<div class='plot' style='height: 90px'><svg class='main-svg'></svg></div>",
    "labels": "<div class='plot'><svg><g class='legend'><text y='20' x='-9'>Cut</text></g></svg></div>",
    "tables": "<table><tr><th>Not said of what</th></tr></table>",
    "headings": "<h1>One</h1><h3>Three</h3>",
    "names": "<button></button><p id='a' aria-labelledby='b'></p><i id='a'></i><img src='data:,'>",
    "scrolling": "<div style='overflow-x: auto; width: 50px'><pre>much text in a row</pre></div>",
    "targets": "<button style='height: 12px; padding: 0'>Go</button>",
    "contrast": "<p style='color: #999; background: #fff'>Pale</p>",
}
_SOUND = """
<h1>One</h1><h2 id="two">Two</h2><p>Text</p><img src="data:," alt="">
<table aria-labelledby="two"><caption>All</caption><tr><th scope="col">A</th></tr></table>
<button style="min-height: 2rem">Go</button><div tabindex="0" style="overflow-x: auto">few</div>
"""


@pytest.mark.parametrize("name", _FAULTS)
def test_audit_names_faults(open_page: Callable[..., Any], tmp_path: Path, name: str) -> None:
    page = tmp_path / "page.html"
    page.write_text(_HEAD + _SOUND, encoding="utf-8")
    shown = open_page(page)
    assert shown.audit(name) == []
    page.write_text(_HEAD + _FAULTS[name], encoding="utf-8")
    shown.page.reload()
    assert shown.audit(name) != []


def test_audit_notes_errors_and_requests(open_page: Callable[..., Any], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        _HEAD + "<script>console.warn('said'); fetch('http://localhost:9/'); nothing();</script>",
        encoding="utf-8",
    )
    shown = open_page(page)
    shown.page.wait_for_load_state("networkidle")
    assert {"console: said", "asked for http://localhost:9/"} <= set(shown.faults)
    assert "error: nothing is not defined" in " ".join(shown.faults)
