"""What a page offers to press: tabs, columns that sort, and figures to keep."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

OpenPage = Callable[..., Any]
Showing = Callable[..., AbstractContextManager[Any]]
PageOf = Callable[[str], Path]


def chosen(page: Any) -> list[str]:
    """The panels of the tabs that are chosen, which alone take the focus; no other panel is in sight."""
    tabs = page.locator("[role=tab]").all()
    panels = [tab.get_attribute("aria-controls") for tab in tabs if tab.get_attribute("tabindex") != "-1"]
    assert panels == [
        tab.get_attribute("aria-controls") for tab in tabs if tab.get_attribute("aria-selected") == "true"
    ]
    shown = [
        panel.get_attribute("id") for panel in page.locator("[role=tabpanel]").all() if panel.is_visible()
    ]
    assert shown == panels
    return shown


@pytest.fixture(scope="module")
def run_page(showing: Showing, page_of: PageOf) -> Iterator[Any]:
    with showing(page_of("run"), color_scheme="dark") as shown:
        yield shown


def test_tabs_are_tied_to_their_panels(run_page: Any) -> None:
    tabs = run_page.page.locator("[role=tablist] [role=tab]").all()
    assert len(tabs) > 3
    for tab in tabs:
        panel = run_page.page.locator(f"#{tab.get_attribute('aria-controls')}")
        assert panel.get_attribute("role") == "tabpanel"
        assert panel.get_attribute("aria-labelledby") == tab.get_attribute("id")


def test_tabs_are_reached_by_keys(run_page: Any) -> None:
    page = run_page.page
    tabs = page.locator("[role=tab]")
    panels = [tab.get_attribute("aria-controls") for tab in tabs.all()]
    tabs.first.click()
    assert chosen(page) == panels[:1]
    for key, place in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", -1), ("Home", 0)):
        page.keyboard.press(key)
        assert page.evaluate("() => document.activeElement.getAttribute('aria-controls')") == panels[place]
        assert chosen(page) == [panels[place]]
    page.keyboard.press("ArrowLeft")
    assert chosen(page) == panels[-1:]
    page.keyboard.press("ArrowRight")
    assert chosen(page) == panels[:1]
    assert run_page.faults == []


def test_link_opens_its_tab(open_page: OpenPage, page_of: PageOf) -> None:
    shown = open_page(page_of("run"), at="#run-training")
    page = shown.page
    training = page.locator("#run-training")
    assert training.is_visible()
    assert len(chosen(page)) == 1
    page.evaluate("() => { location.hash = '#run-results'; }")
    page.locator("#run-results").wait_for()
    assert not training.is_visible()
    page.go_back()
    training.wait_for()
    shown.settle()
    assert shown.audit("figures") == []
    assert shown.faults == []


def numbers(page: Any, table: Any, column: int) -> list[float]:
    """The first number of each cell; infinite where there is none."""
    cells = table.locator(f"tbody tr > :nth-child({column + 1})").all_text_contents()
    matches = [re.search(r"-?\d[\d,]*(\.\d+)?", cell) for cell in cells]
    return [float(match[0].replace(",", "")) if match else float("inf") for match in matches]


def test_columns_sort_both_ways(open_page: OpenPage, page_of: PageOf) -> None:
    shown = open_page(page_of("compare"), "phone")
    page = shown.page
    table = page.locator("table:has(thead th button)").first
    heads = table.locator("thead th")
    column = next(at for at, head in enumerate(heads.all()) if "Clean" in head.text_content())
    head = heads.nth(column)
    seen = []
    for _ in range(2):
        head.get_by_role("button").click()
        order = head.get_attribute("aria-sort")
        values = numbers(page, table, column)
        rising = all(one <= other for one, other in pairwise(values))
        falling = all(one >= other for one, other in pairwise(values))
        assert {"ascending": rising, "descending": falling}[order]
        assert rising != falling
        seen.append(order)
    assert set(seen) == {"ascending", "descending"}
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == seen[0]
    assert sum(head.get_attribute("aria-sort") in seen for head in heads.all()) == 1
    assert shown.audit("overflow") == []
    assert shown.faults == []


@pytest.mark.parametrize("form", ["svg", "png"])
def test_figure_can_be_saved(run_page: Any, tmp_path: Path, form: str) -> None:
    page = run_page.page
    button = page.get_by_role("button", name=re.compile(form, re.IGNORECASE)).filter(visible=True).first
    with page.expect_download() as waited:
        button.click()
    assert waited.value.suggested_filename.endswith(f".{form}")
    saved = tmp_path / f"figure.{form}"
    waited.value.save_as(saved)
    if form == "png":
        assert saved.read_bytes().startswith(b"\x89PNG")
    else:
        text = saved.read_text(encoding="utf-8")
        assert text.startswith("<svg")
        assert "ε" in text
        assert "rgb(27, 31, 39)" in text  # ink as on paper, whatever the page's theme
    assert run_page.faults == []


def test_choice_shows_one_figure_at_a_time(open_page: OpenPage, page_of: PageOf) -> None:
    shown = open_page(page_of("compare"), "phone")
    choice = shown.page.locator(".choice").first
    select = choice.get_by_role("combobox")
    names = select.locator("option").all_text_contents()
    assert len(names) > 2
    for name in (names[-1], names[1]):
        select.select_option(label=name)
        shown.settle()
        figures = choice.locator("figure").filter(visible=True)
        assert figures.count() == 1
        assert figures.locator(".chart-title").text_content().startswith(name)
        assert figures.locator(".scatterlayer path").count() > 0
    assert shown.audit("labels") == []
    assert shown.audit("figures") == []
    assert shown.faults == []
