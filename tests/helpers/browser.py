"""A real browser for tests of pages: headless Chromium, and a record of what a page should not do.

with open_browser() as browser:
    page = browser.open("http://127.0.0.1:7860")
    page.get_by_text("Show").click()
    assert browser.complaints == []
"""

import contextlib
import shutil
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
LOCAL_SCHEMES = ("data", "blob", "about", "file")


class Browser:
    """Opens pages, and keeps what went wrong on them.

    Attributes:
        complaints: errors on the console or in a script, answers of 400 or more, and requests to another machine.
    """

    def __init__(self, chromium):
        self.chromium, self.complaints = chromium, []

    def open(self, address, width=1280, height=900):
        """A page of this size in CSS pixels, in a session of its own, loaded."""
        page = self.chromium.new_context(viewport={"width": width, "height": height}).new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._watch)
        page.on("response", lambda answer: answer.status >= 400 and self.complaints.append(str(answer)))
        page.goto(str(address))
        return page

    def _watch(self, request):
        parts = urlsplit(request.url)
        if parts.scheme not in LOCAL_SCHEMES and parts.hostname not in ("127.0.0.1", "localhost"):
            self.complaints.append(f"asked another machine: {request.url}")


@contextlib.contextmanager
def open_browser():
    """A `Browser`; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no {NAMES[0]} on this machine, so pages cannot be opened")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield Browser(chromium)
        finally:
            chromium.close()


def sticks_out(page):
    """By how many CSS pixels the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
