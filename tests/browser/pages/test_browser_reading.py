"""What a reader does with a page: points, prints, follows links, and reads without scripts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

OpenPage = Callable[..., Any]
Showing = Callable[..., AbstractContextManager[Any]]
PageOf = Callable[[str], Path]

# Where a value of the axes lies in the window, by plotly's own measure of its figure.
_PLACE = """
(plot, [x, y]) => {
  const { xaxis, yaxis } = plot._fullLayout;
  const { left, top } = plot.getBoundingClientRect();
  return [left + xaxis._offset + xaxis.d2p(x), top + yaxis._offset + yaxis.d2p(y)];
}
"""
_INK = "() => getComputedStyle(document.querySelector('div.plot svg .xtick text')).fill"


_NAMES = """
(plot) => [...plot.querySelectorAll(".textpoint text")].map((name) => getComputedStyle(name).visibility)
"""
_COLLISIONS = """
(plot) => {
  const names = [...plot.querySelectorAll(".textpoint text")];
  const shown = names.filter((name) => name.style.visibility !== "hidden");
  const boxes = shown.map((name) => name.getBoundingClientRect());
  const meet = (one, other) => one.left < other.right && other.left < one.right
    && one.top < other.bottom && other.top < one.bottom;
  return boxes.filter((one, at) => boxes.slice(at + 1).some((other) => meet(one, other))).length;
}
"""
_PAPER = 794  # A4 in CSS pixels


@pytest.fixture(scope="module")
def run_page(showing: Showing, page_of: PageOf) -> Iterator[Any]:
    """The page of a run, for tests that leave it as it was."""
    with showing(page_of("run"), at="#run-accuracy", color_scheme="light") as shown:
        yield shown


def test_figure_shows_the_numbers_of_the_point_that_is_pointed_at(run_page: Any) -> None:
    page = run_page.page
    plot = page.locator("div.plot[aria-label^='Accuracy against ε, ℓ∞']")
    plot.scroll_into_view_if_needed()
    series = plot.evaluate("(plot) => [plot.data[0].x[1], plot.data[0].y[1], plot.data[0].name]")
    page.mouse.move(*plot.evaluate(_PLACE, series[:2]))
    hover_text = plot.locator(".hoverlayer .hovertext").first
    hover_text.wait_for()
    words = hover_text.text_content().replace("\N{NO-BREAK SPACE}", " ")
    assert series[2] in words
    assert re.search(r"ε = 0\.1, .*accuracy \d\d(\.\d)? %.*95 % interval", words)
    page.mouse.move(1, 1)
    hover_text.wait_for(state="detached")


def test_figures_follow_the_theme(run_page: Any) -> None:
    page = run_page.page
    light = page.evaluate(_INK)
    page.emulate_media(color_scheme="dark")
    run_page.settle()
    assert page.evaluate(_INK) != light
    assert run_page.audit("contrast") == []
    page.emulate_media(color_scheme="light")
    run_page.settle()
    assert page.evaluate(_INK) == light
    assert run_page.audit("contrast") == []


def test_figures_follow_the_width(run_page: Any) -> None:
    for width in (375, 1280):
        run_page.page.set_viewport_size({"width": width, "height": 800})
        run_page.page.wait_for_function(
            "() => [...document.querySelectorAll('div.plot svg.main-svg')].every((svg) => !svg.clientWidth ||"
            " Math.abs(svg.clientWidth - svg.closest('div.plot').clientWidth) < 2)"
        )
        assert run_page.audit("overflow") == []


def test_keyboard_comes_to_the_figures_first(open_page: OpenPage, page_of: PageOf) -> None:
    page = open_page(page_of("bare"), java_script_enabled=False).page
    page.keyboard.press("Tab")
    skip = page.locator(":focus")
    assert skip.get_attribute("href") == "#main"
    assert skip.bounding_box()["x"] >= 0
    assert skip.evaluate("(link) => getComputedStyle(link).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.locator(":focus").get_attribute("id") == "main"


def test_command_can_be_copied(run_page: Any) -> None:
    page = run_page.page
    button = page.locator("[data-copy]").first
    button.evaluate("(button) => button.click()")
    page.wait_for_function(
        "() => [...document.querySelectorAll('[data-copy]')].some((each) =>"
        " ['Copied', 'Selected'].includes(each.textContent))"
    )


@pytest.mark.parametrize("kind", ["run", "many"])
def test_print_shows_all(open_page: OpenPage, page_of: PageOf, kind: str) -> None:
    shown = open_page(page_of(kind), color_scheme="dark")
    shown.page.set_viewport_size({"width": _PAPER, "height": 1100})
    shown.page.emulate_media(media="print")
    shown.page.evaluate("() => dispatchEvent(new Event('beforeprint'))")  # the emulation sends none
    shown.settle()
    assert shown.audit("overflow") == []
    assert shown.audit("contrast") == []
    folds = "details:not([open], [name], .brief > *, .contents > *)"
    assert shown.page.locator(folds).count() == 0
    panels = shown.page.locator(":not(details:not([open]) *):is([role=tabpanel])")
    assert all(panel.is_visible() for panel in panels.all())
    shown.page.emulate_media(media="screen")
    shown.page.evaluate("() => dispatchEvent(new Event('afterprint'))")
    shown.page.evaluate("() => addEventListener('beforeprint', () => { document.title = 'printed'; })")
    closed = shown.page.locator(folds).count()
    assert closed > 0  # as before
    printed = shown.page.pdf(format="A4")
    assert shown.page.locator(folds).count() == closed
    assert shown.page.title() == "printed"  # so that the figures were fitted to paper
    assert printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type /Page\b", printed)) > 2
    assert panels.filter(visible=True).count() == (1 if kind == "run" else 0)
    assert shown.faults == []


def test_names_beside_points_do_not_lie_on_one_another(open_page: OpenPage, page_of: PageOf) -> None:
    shown = open_page(page_of("compare"))
    plot = shown.page.locator(".choice div.plot").filter(visible=True).first
    shown.settle()
    assert plot.evaluate(_COLLISIONS) == 0
    close = "(plot) => Plotly.relayout(plot, { 'xaxis.range': [-9, 9], 'yaxis.range': [-9, 9] })"
    plot.evaluate(close)
    shown.settle()
    assert plot.evaluate(_COLLISIONS) == 0
    assert plot.evaluate(_NAMES).count("hidden") > 0
    assert plot.evaluate(_NAMES).count("visible") > 0


def test_legends_are_wrapped_to_the_width(open_page: OpenPage, page_of: PageOf) -> None:
    shown = open_page(page_of("compare"))
    plot = shown.page.locator("div.plot[aria-label^='Accuracy against ε, ℓ∞']").first
    lines = "(plot) => Math.max(...plot.data.map(({ name }) => (name ?? '').split('<br>').length))"
    assert plot.evaluate(lines) == 1
    for width, are_wrapped in ((375, "> 1"), (1280, "=== 1")):
        shown.page.set_viewport_size({"width": width, "height": 800})
        shown.page.wait_for_function(f"(plot) => ({lines})(plot) {are_wrapped}", arg=plot.element_handle())
        assert shown.audit("labels") == []
    assert shown.faults == []


@pytest.mark.parametrize("kind", ["run", "compare"])
def test_page_without_scripts_shows_all(open_page: OpenPage, page_of: PageOf, kind: str) -> None:
    shown = open_page(page_of(kind), "phone", java_script_enabled=False)
    page = shown.page
    assert page.locator("noscript p").is_visible()
    sections = page.locator("main section").all()
    assert len(sections) > 5
    folded = "details:not([open]) > :not(summary) *"
    hidden = [
        element.text_content()
        for element in page.locator(f"main :is(section, h2, h3, table):not({folded})").all()
        if not element.is_visible()
    ]
    assert hidden == []
    assert shown.audit("overflow") == []


def test_link_opens_what_is_folded(open_page: OpenPage, page_of: PageOf) -> None:
    shown = open_page(page_of("many"), at="#run-4")
    page = shown.page
    assert page.locator("#run-4-results").is_visible()
    assert not page.locator("#run-5-results").is_visible()
    page.locator(".contents summary").click()
    page.locator(".contents a[href='#run-5']").click()
    page.locator("#run-5-results").wait_for()
    shown.settle()
    assert shown.audit("figures") == []
    assert shown.audit("headings") == []
    assert shown.faults == []


def test_page_of_three_runs_is_short_and_its_folds_draw_when_opened(
    open_page: OpenPage, page_of: PageOf
) -> None:
    shown = open_page(page_of("compare"))
    assert shown.page.evaluate("() => document.documentElement.scrollHeight") < 6000
    fold = shown.page.locator("details:has(> .charts) > summary").filter(visible=True).last
    fold.focus()
    shown.page.keyboard.press("Enter")
    shown.settle()
    assert shown.page.locator("section:has(#compare-training) .scatterlayer path").count() > 0
    assert shown.audit("figures") == []
    assert shown.faults == []


def test_what_goes_on_to_a_side_fades_there(open_page: OpenPage, page_of: PageOf) -> None:
    page = open_page(page_of("run"), "phone").page
    tabs = page.locator(".tabs")
    fades = (
        "(box) => [box.matches('.more-left'), box.matches('.more-right'), getComputedStyle(box).maskImage]"
    )
    page.wait_for_function("() => document.querySelector('.tabs.more-right')")
    is_left, is_right, mask = tabs.evaluate(fades)
    assert (is_left, is_right) == (False, True)
    assert "gradient" in mask
    tabs.evaluate("(box) => { box.scrollLeft = box.scrollWidth; }")
    page.wait_for_function("() => document.querySelector('.tabs.more-left:not(.more-right)')")
