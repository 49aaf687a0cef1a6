"""The report of the README's job, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import browser

from prerank.core.home import Home


@pytest.mark.slow
@browser.needed
def test_the_report_opens_by_itself_and_fetches_nothing(cluster: tuple[Path, str]) -> None:
    report = Home.at(cluster[0] / ".prerank").root / "report.html"
    with browser.opened_browser() as opened:
        page = opened.new_page(viewport={"width": 1360, "height": 860})
        fetched: list[str] = []
        page.on("request", lambda request: fetched.append(request.url))
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(report.as_uri())
        assert page.locator("h1").inner_text()
        assert page.locator("table").count() > 3
        assert page.locator("svg").count() > 3
        wide = page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
        assert not wide, "the page must not scroll sideways"
        # As wide as its text: beside the playground's, in the README, it is made small.
        page.set_viewport_size({"width": 840, "height": 600})
        browser.picture(page, "report")
    assert fetched == [report.as_uri()]
    assert complaints == []
