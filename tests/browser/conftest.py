"""A real browser, without a screen: Debian's chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_MS = 120_000  # the machine may be busy with other tests
WEBGL = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # on the processor, for Neuroglancer


# What the browser has not laid out yet has no inner text, and how far it has come depends on the machine.
LAID_OUT = "document.querySelectorAll('*').forEach((e) => (e.style.contentVisibility = 'visible'))"


@dataclass
class Watched:
    """A page, and everything that it did besides showing itself."""

    page: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    dialogs: list[tuple[str, str]] = field(default_factory=list)  # kind and words; each was accepted

    def check(self) -> None:
        """It asked for nothing beyond itself, nothing went wrong, and no text of a stranger ran."""
        assert [r for r in self.requests if not r.startswith(("file:", "data:", "blob:"))] == []
        assert self.errors == []
        assert self.page.evaluate("window.boomed") == 0


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium here: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *WEBGL], timeout=PATIENCE_MS)
        yield browser
        browser.close()


@pytest.fixture
def browse(chromium: Any) -> Iterator[Any]:
    """Open a file in a page of its own: browse(path) -> Watched. At the end each page is checked."""
    opened = []

    def open_page(path: Path, **context: Any) -> Watched:
        context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True, reduced_motion="reduce", **context)
        context.set_default_timeout(PATIENCE_MS)
        context.add_init_script("window.boomed = 0; window.boom = () => { window.boomed += 1; };")
        watched = Watched(context.new_page())
        watched.page.on("request", lambda r: watched.requests.append(r.url))
        watched.page.on("console", lambda m: watched.errors.append(m.text) if m.type in ("error", "warning") else None)
        watched.page.on("pageerror", lambda e: watched.errors.append(str(e)))
        watched.page.on("dialog", lambda d: (watched.dialogs.append((d.type, d.message)), d.accept()))
        watched.page.goto(path.absolute().as_uri())
        watched.page.evaluate(LAID_OUT)
        opened.append((context, watched))
        return watched

    yield open_page
    for context, watched in opened:
        if not watched.page.is_closed():
            watched.check()
        context.close()
