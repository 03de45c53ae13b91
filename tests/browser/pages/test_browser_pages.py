"""The pages in a browser: drawn, in bounds, and open to all readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LOOKS = [
    *(("run", "phone", "dark"), ("run", "laptop", "light")),
    *(("random", "phone", "light"), ("random", "laptop", "dark")),
    *(("compare", "phone", "light"), ("compare", "laptop", "dark")),
    *(("many", "phone", "dark"), ("bare", "laptop", "light")),
]
LOOKS_OF_A_TAB = ["overflow", "cut", "figures", "labels", "scrolling", "targets", "contrast", "headings"]

OpenPage = Callable[..., Any]
PageOf = Callable[[str], Path]


@pytest.mark.parametrize(("kind", "width", "scheme"), LOOKS)
def test_page_is_drawn_and_sound(
    open_page: OpenPage, page_of: PageOf, kind: str, width: str, scheme: str
) -> None:
    shown = open_page(page_of(kind), width, color_scheme=scheme)
    audits = {name: shown.audit(name) for name in ("tables", "names")}
    if kind == "compare":
        shown.page.locator(".run > details > summary").first.click()
    for panel in shown.panels():
        audits |= {f"{panel}: {name}": shown.audit(name) for name in LOOKS_OF_A_TAB}
    assert {name: faults for name, faults in audits.items() if faults} == {}
    assert shown.faults == []
