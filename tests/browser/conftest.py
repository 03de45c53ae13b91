"""A headless Chromium, and pages opened in it that note whatever goes wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--js-flags=--no-enable-lazy-source-positions",  # else plotly is parsed again when it first has an error
]
_PATIENCE = 300_000.0  # milliseconds; how long a machine that does other things takes is no fault
_AUDIT = Path(__file__).with_name("audit.js").read_text(encoding="utf-8")
_WIDTHS = {"phone": 375, "laptop": 1280}


@dataclass
class Shown:
    """A page that is open.

    ``faults`` are the errors of its scripts and its console, and what it asked of any network.
    """

    page: Page
    faults: list[str] = field(default_factory=list)

    def audit(self, name: str) -> list[str]:
        """What a check of ``audit.js`` finds fault with."""
        faults: list[str] = self.page.evaluate(f"() => ({_AUDIT}).{name}()")
        return faults

    def panels(self) -> Iterator[str]:
        """Goes through the tabs of the page's first list of tabs, or stays where there is none."""
        tabs = self.page.locator("[role=tablist]").filter(visible=True).first.locator("[role=tab]").all()
        for tab in tabs:
            tab.click()
            self.settle()
            yield tab.text_content() or ""
        if not tabs:
            self.settle()
            yield "page"

    def settle(self) -> None:
        """Waits for two frames, in which plotly fits the figures to what has changed."""
        self.page.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )


def _chromium() -> str:
    """The path of the browser; skips where there is none."""
    named = os.environ.get("WITHSTAND_CHROMIUM")
    program = named or next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("there is no Chromium; install it, or name it in WITHSTAND_CHROMIUM")
    return program


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser a module: it leaves no event loop running for the tests of others."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = _chromium()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS, timeout=_PATIENCE)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def showing(browser: Browser) -> Callable[..., AbstractContextManager[Shown]]:
    """Opens a page at a width, "phone" or "laptop", while a block runs.

    It has a context of its own without any network.
    """

    @contextmanager
    def shown(path: Path, width: str = "laptop", *, at: str = "", **options: Any) -> Iterator[Shown]:
        size = {"width": _WIDTHS[width], "height": 800}
        context = browser.new_context(viewport=size, offline=True, **options)  # type: ignore[arg-type]
        context.set_default_timeout(_PATIENCE)
        try:
            shown = Shown(context.new_page())
            _watch(shown)
            shown.page.goto(path.as_uri() + at)
            yield shown
        finally:
            context.close()

    return shown


@pytest.fixture
def open_page(showing: Callable[..., AbstractContextManager[Shown]]) -> Iterator[Callable[..., Shown]]:
    """Opens pages as ``showing`` does, until the test ends."""
    with ExitStack() as pages:
        yield lambda *args, **options: pages.enter_context(showing(*args, **options))


def _watch(shown: Shown) -> None:
    page = shown.page
    page.on("pageerror", lambda error: shown.faults.append(f"error: {error}"))
    page.on("console", lambda message: shown.faults.append(f"console: {message.text}"))
    page.on(
        "request",
        lambda asked: (
            None
            if asked.url.startswith(("file:", "data:", "blob:"))
            else shown.faults.append(f"asked for {asked.url}")
        ),
    )
