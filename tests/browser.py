"""The system's Chromium, and pictures of pages for the documentation.

With PRERANK_PICTURES naming a folder, the tests write there what docs/ and README show.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
PICTURES = os.environ.get("PRERANK_PICTURES")

needed = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed here")


@contextmanager
def opened_browser() -> Iterator[Browser]:
    """A browser, which is closed."""
    with sync_playwright() as playwright:
        # In a container the sandbox needs more rights than tests have.
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def picture(page: Page, name: str) -> None:
    """A picture for the documentation, where one is asked for."""
    if PICTURES:
        page.evaluate("() => scrollTo(0, 0)")
        taken = Image.open(io.BytesIO(page.screenshot(animations="disabled")))
        taken.save(Path(PICTURES) / f"{name}.webp", quality=88, method=6)
