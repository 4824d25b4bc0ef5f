"""A Chromium without a screen, for tests and for the screenshots of the documents."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from playwright.sync_api import Browser, Error, sync_playwright

_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
)


def executable() -> str | None:
    """The Chromium of BATCHLIC_TEST_CHROMIUM, of the machine, or of Playwright; None without any."""
    for name in (os.environ.get("BATCHLIC_TEST_CHROMIUM"), "chromium", "chromium-browser", "google-chrome"):
        if name and (found := shutil.which(name)):
            return found
    with suppress(Error), sync_playwright() as playwright:
        if Path(path := playwright.chromium.executable_path).exists():
            return path
    return None


@contextmanager
def chromium(path: str) -> Iterator[Browser]:
    """The browser at a path, until the block ends."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()
