"""A headless Chromium for the tests of pages: one a session, a fresh profile and window for each test.

    def test_x(page: Page) -> None:
        page.goto(path.as_uri())

Whatever a page writes to its console, an error or a refusal of its policy, fails the test that opened it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run --disable-extensions "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()


def chromium_path() -> str | None:
    """The Chromium of this machine; None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A running Chromium; tests are skipped where there is none, or no Playwright."""
    path = chromium_path()
    if path is None:
        pytest.skip(f"needs Chromium: none of {', '.join(NAMES)} is here")
    api = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        yield browser
        browser.close()


def until(page: Any, expression: str, seconds: float = 20.0) -> None:
    """Waits until a JavaScript expression is true on a page, whatever the page's policy."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(20)


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A window of 1280 x 900 pixels; what its console says in ``page.said``, which must be empty at the end.

    A test that expects a complaint reads it and clears the list. ``page.until("a > 1")`` waits until that is so.
    """
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    opened.said = []
    # Playwright's own wait_for_function is an eval, which a page's policy may forbid.
    opened.until = lambda expression: until(opened, expression)
    opened.on("console", lambda message: opened.said.append(f"{message.type}: {message.text}"))
    opened.on("pageerror", lambda error: opened.said.append(f"thrown: {error}"))
    yield opened
    said = list(opened.said)
    context.close()
    assert said == []
