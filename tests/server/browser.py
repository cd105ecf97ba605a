"""A real browser without a window."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser with an empty profile."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.fail("the page's tests need Chromium: make chromium, or install it yourself")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(QUIET))
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser,
    width: int = 1100,
    scheme: Literal["light", "dark"] = "light",
    height: int = 900,
) -> Iterator[Page]:
    """A window that shares nothing with others. Errors of its scripts fail the test."""
    page = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(f"{request.url} failed"))
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    try:
        yield page
    finally:
        page.close()
    expected = ("401 (Unauthorized)", "404 (Not Found)", "lragent/events failed")
    assert [each for each in problems if not any(part in each for part in expected)] == []
