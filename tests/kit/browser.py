"""A real browser, without a window: Debian's Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from tests.kit.debian import absent

CHROMIUM = Path("/usr/bin/chromium")
# Root has no sandbox. The other options keep Chromium from network requests of its own.
OPTIONS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Chromium, started and stopped."""
    if not CHROMIUM.exists():
        absent("there is no Chromium here", "apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        try:
            yield browser
        finally:
            browser.close()
