"""The page in a real browser: each action, by mouse and by keyboard, and what may go wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect
from tests import browser as browsers
from tests import shop
from tests.http_calls import token_file
from tests.http_servers import served
from tests.shop_server import Shop, lose_store, opened

from prerank.core.home import Home

PATIENCE_MS = 30_000.0
CONTRAST = (Path(__file__).parent / "contrast.js").read_text()

pytestmark = browsers.needed


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.opened_browser() as found:
        yield found


@pytest.fixture(scope="module")
def url(open_shop: Shop) -> Iterator[str]:
    with served(open_shop) as found:  # type: ignore[arg-type]
        yield found.url


def new_page(browser: Browser, url: str, **options: Any) -> tuple[Page, list[str]]:
    """The playground in a new window, and what the browser complains about."""
    page = browser.new_page(viewport={"width": 1360, "height": 860}, **options)
    page.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def noted(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    page.on("console", noted)
    page.goto(f"{url}/playground/")
    return page, complaints


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    found, complaints = new_page(browser, url)
    yield found
    # A refusal is told on the page; the browser names its status besides.
    assert [c for c in complaints if "Failed to load resource" not in c] == []
    assert found.evaluate("() => window.hacked") is None
    found.close()


def rank(page: Page, query: str, user: str = "user-03", third: str = "") -> None:
    page.get_by_role("combobox", name="Query").fill(query)
    page.get_by_role("combobox", name="User").fill(user)
    page.get_by_role("combobox", name="User").press("Escape")
    page.get_by_label("Third").select_option(third)
    page.get_by_role("button", name="Rank Enter").click()


def rows(page: Page, column: int = 0) -> Locator:
    return page.locator(".column").nth(column).locator(".row")


def picture(page: Page, name: str) -> None:
    # A click on the button may have scrolled the form.
    page.evaluate("() => document.querySelector('.form').scrollTo(0, 0)")
    browsers.picture(page, f"playground-{name}")


def contrasts(page: Page) -> list[str]:
    found: list[str] = page.evaluate(CONTRAST)
    return found


def test_a_search_is_ranked_side_by_side_and_explained(page: Page) -> None:
    expect(page.get_by_text("Try a search")).to_be_visible()
    rank(page, "desk lamp", third="version:2")
    expect(page.locator(".column .rows")).to_have_count(3)
    expect(rows(page)).to_have_count(20)
    expect(page.get_by_role("heading", name="desk lamp", exact=True)).to_be_visible()
    moved = page.locator(".column").nth(1).locator("li.moved")
    expect(moved.first).to_contain_text("▲")
    expect(page.get_by_text("of top 10 shared")).to_have_count(2)
    picture(page, "ranking")
    title = rows(page).first.locator(".title").inner_text()
    rows(page).first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name=title)).to_be_visible()
    expect(dialog.get_by_text("What the score is made of")).to_be_visible()
    expect(dialog.get_by_text("dot product")).to_be_visible()
    assert dialog.locator(".bars li").count() > 10
    expect(dialog.get_by_role("row", name="this query desk lamp")).to_contain_text(" of ")
    expect(dialog.get_by_text("Counts are of the snapshot of 2023-11-26")).to_be_attached()
    picture(page, "why")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.get_by_role("button", name="Show 62 rows").click()
    expect(rows(page)).to_have_count(62)
    rows(page, 1).first.click()
    expect(dialog.get_by_text("This baseline has one number and no parts")).to_be_visible()


def test_a_fitted_baseline_stands_beside_its_version_and_is_explained(page: Page) -> None:
    page.get_by_text("Baselines that cannot be chosen").click()
    missing = page.get_by_text("two_tower, two_tower_sequence, inttower: not fitted here")
    expect(missing).to_be_visible()
    assert page.get_by_label("Third").locator("option[value=inttower]").is_disabled()
    rank(page, "desk lamp", third="trees")
    column = page.locator(".column").nth(2)
    # Its files are read when it is first asked for.
    rows(page, 2).first.wait_for()
    expect(column).to_contain_text("trees (version 1)")
    expect(column).to_contain_text("LightGBM's trees over the same cross features")
    rows(page, 2).first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("A bar is a SHAP value")
    expect(dialog).to_contain_text("Features as model version 1 reads them")
    assert dialog.locator(".bars li").count() > 2
    dialog.get_by_role("button", name="click").click()
    expect(page.locator("#changes")).to_contain_text("user-03: click on")


def test_an_engagement_changes_the_next_ranking_and_says_which_features(page: Page) -> None:
    rank(page, "desk lamp", "somebody-quite-new")
    expect(page.get_by_text("new user", exact=True)).to_be_visible()
    last = rows(page).nth(19)
    title = last.locator(".title").inner_text()
    last.click()
    page.get_by_role("dialog").get_by_role("button", name="save").click()
    changes = page.locator("#changes")
    expect(changes).to_contain_text(f"save on “{title}”")
    expect(changes).to_contain_text("It goes from place 20 to ")
    row = "the user engaged with it before user:touched 0.000 1.000"
    expect(changes.get_by_role("row", name=row)).to_be_visible()
    expect(rows(page).filter(has_text=title)).to_have_class("row touched")
    # What decides comes first, and the ranking that follows is in sight.
    expect(changes.get_by_role("row").nth(1)).to_contain_text("score")
    expect(rows(page).first).to_be_in_viewport()
    expect(page.get_by_text("new user", exact=True)).to_be_hidden()
    picture(page, "engaged")
    # The page of the user has it, too.
    page.get_by_role("link", name="somebody-quite-new").click()
    expect(page.get_by_role("row", name=f"save {title}")).to_be_visible()


def test_candidates_come_from_a_logged_search_or_are_pasted(page: Page) -> None:
    page.get_by_text("Logged", exact=True).click()
    rank(page, "desk lamp")
    page.get_by_label("Search of the log").locator("option").nth(2).wait_for(state="attached")
    page.get_by_role("button", name="Rank Enter").click()
    expect(rows(page)).to_have_count(12)
    expect(page.get_by_text("engaged in the log").first).to_be_visible()
    page.get_by_text("Pasted ids").click()
    page.get_by_label("Item ids").fill("102, 152;132\n99999")
    page.get_by_role("button", name="Rank Enter").click()
    expect(rows(page)).to_have_count(4)
    expect(rows(page).filter(has_text="item 99999")).to_have_count(1)


def test_pages_of_queries_items_and_users_lead_to_each_other(page: Page) -> None:
    rank(page, "desk lamp")
    page.get_by_role("link", name="desk lamp", exact=True).click()
    expect(page.get_by_role("heading", name="What is engaged with")).to_be_visible()
    expect(page.get_by_role("row", name="all items")).to_be_visible()
    picture(page, "query")
    page.get_by_role("link", name="Large desk lamp").first.click()
    expect(page.get_by_role("heading", name="Queries that lead to it")).to_be_visible()
    expect(page.get_by_text("in the index")).to_be_visible()
    page.get_by_role("link", name="desk lamp", exact=True).click()
    page.get_by_role("link", name="user-").first.click()
    expect(page.get_by_role("heading", name="History")).to_be_visible()
    expect(page.locator(".tag", has_text="device:")).to_be_visible()
    picture(page, "user")
    page.get_by_role("button", name="Rank again").first.click()
    expect(rows(page)).to_have_count(12)


def test_everything_can_be_done_with_the_keyboard(page: Page) -> None:
    expect(page.get_by_text("Try a search")).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("desk l")
    expect(page.get_by_role("option", name="desk lamp")).to_be_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    query = page.get_by_role("combobox", name="Query")
    expect(query).to_have_value("desk lamp")
    page.keyboard.press("Enter")
    expect(rows(page)).to_have_count(20)
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    expect(rows(page).nth(1)).to_be_focused()
    page.keyboard.press("l")
    expect(rows(page, 1).nth(1)).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("What the score is made of")).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(rows(page).nth(1)).to_be_focused()
    page.keyboard.press("?")
    expect(dialog.get_by_role("heading", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    # Tab reaches each control of the form, in its order.
    query.focus()
    names = []
    for _ in range(10):
        page.keyboard.press("Tab")
        names.append(
            page.evaluate("() => document.activeElement.name || document.activeElement.id")
        )
    assert names[0] == "user_id"
    assert {"source.kind", "rankers", "context.country", "time"} <= set(names)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(page: Page, scheme: Any) -> None:
    """WCAG 2.2 AA, 1.4.3: 4.5 to 1, or 3 to 1 for large text."""
    page.emulate_media(color_scheme=scheme)
    expect(page.get_by_text("Try a search")).to_be_visible()
    assert contrasts(page) == []
    page.get_by_text("Logged", exact=True).click()
    rank(page, "desk lamp", third="version:3")
    expect(page.get_by_text("no item index")).to_be_visible()
    assert contrasts(page) == []
    if scheme == "dark":
        picture(page, "dark")
    rows(page).first.click()
    expect(page.get_by_text("What the score is made of")).to_be_visible()
    assert contrasts(page) == []
    page.keyboard.press("Escape")
    page.goto(page.url.partition("#")[0] + "#/user/user-03")
    expect(page.get_by_role("heading", name="History")).to_be_visible()
    assert contrasts(page) == []


def test_the_theme_is_switched_and_kept(page: Page) -> None:
    button = page.locator("#theme")
    ground = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    button.click()
    button.click()
    expect(button).to_have_text("Theme: dark")
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == dark


def test_what_is_looked_for_can_be_found_without_knowing_it(page: Page) -> None:
    """Users before one is typed, the button in a low window, the top of a page."""
    page.get_by_role("combobox", name="User").focus()
    expect(page.get_by_role("option", name="user-").first).to_be_visible()
    page.set_viewport_size({"width": 1360, "height": 480})
    expect(page.get_by_role("button", name="Rank Enter")).to_be_in_viewport(ratio=1)
    rank(page, "desk lamp")
    expect(page).to_have_title("desk lamp · Playground")
    expect(rows(page)).to_have_count(20)
    page.evaluate("() => scrollTo(0, 600)")
    page.goto(page.url.partition("#")[0] + "#/user/user-03")
    expect(page.get_by_role("heading", name="History")).to_be_visible()
    expect(page.locator("main")).to_be_focused()
    assert page.evaluate("() => document.querySelector('h1').getBoundingClientRect().top >= 0")


def test_what_is_wrong_is_told_on_the_page(page: Page) -> None:
    main = page.locator("main")
    rank(page, "")
    expect(main).to_contain_text("is empty; send the text the user searched for")
    expect(page.get_by_role("combobox", name="Query")).to_be_focused()
    rank(page, "x" * 10_000)
    expect(main).to_contain_text("10000 characters; at most 1000 are allowed")
    rank(page, "desk lamp", "")
    expect(main).to_contain_text("a non-empty string is needed")
    rank(page, "desk lamp", third="version:3")
    expect(page.locator(".column").nth(2)).to_contain_text("model version 3 has no item index")
    expect(rows(page)).to_have_count(20)
    page.goto(page.url.partition("#")[0] + "#/user/nobody-at-all")
    expect(main).to_contain_text("'nobody-at-all' is unknown")
    page.goto(page.url.partition("#")[0] + "#/item/5")
    expect(main).to_contain_text("no item of the log")
    page.goto(page.url.partition("#")[0] + "#/query/never%20searched")
    expect(main).to_contain_text("Nothing is counted for this query")


def test_markup_in_queries_and_titles_is_text(page: Page) -> None:
    """The fixture sees that nothing of it ran."""
    rank(page, shop.MARKUP)
    page.get_by_role("button", name="Show 62 rows").click()
    expect(rows(page).filter(has_text=shop.MARKUP)).to_have_count(1)
    rows(page).filter(has_text=shop.MARKUP).click()
    expect(page.get_by_role("dialog").get_by_role("heading", level=2)).to_have_text(shop.MARKUP)
    page.keyboard.press("Escape")
    page.get_by_role("heading", level=1).get_by_role("link").click()
    expect(page.get_by_role("heading", name="What is engaged with")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_contain_text("<script>")
    assert page.locator("main script, main img").count() == 0


@pytest.mark.parametrize("width", [390, 820])
def test_small_screens_have_all_of_it(browser: Browser, url: str, width: int) -> None:
    page, complaints = new_page(browser, url)
    page.set_viewport_size({"width": width, "height": 800})
    rank(page, "desk lamp", third="version:2")
    expect(rows(page).first).to_be_in_viewport()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    rows(page).first.click()
    expect(page.get_by_text("What the score is made of")).to_be_visible()
    assert complaints == []
    page.close()


def test_a_token_is_asked_for_and_a_store_that_is_gone_is_told(
    browser: Browser, own_home: Home, tmp_path: Path
) -> None:
    tokens = token_file(tmp_path, "secret-of-the-shop")
    with opened(own_home, token_file=tokens) as found, served(found) as server:  # type: ignore[arg-type]
        lose_store(own_home)
        page, _ = new_page(browser, server.url)
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_role("heading", name="Sign in")).to_be_visible()
        assert contrasts(page) == []
        dialog.get_by_label("Token").fill("wrong")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("does not know that token")
        dialog.get_by_label("Token").fill("secret-of-the-shop")
        page.keyboard.press("Enter")
        expect(page.get_by_text("Try a search")).to_be_visible()
        page.reload()
        expect(page.get_by_text("Try a search")).to_be_visible()
        rank(page, "desk lamp")
        expect(page.get_by_text("These rankings were made without")).to_contain_text(
            "engagement, user_history"
        )
        expect(rows(page)).to_have_count(20)
        page.get_by_role("button", name="Sign out").click()
        expect(dialog.get_by_role("heading", name="Sign in")).to_be_visible()
        page.close()


def test_the_page_is_honest_about_a_deployment_that_is_gone(browser: Browser, home: Home) -> None:
    with opened(home) as found, served(found) as server:  # type: ignore[arg-type]
        page, _ = new_page(browser, server.url)
        expect(page.get_by_text("Try a search")).to_be_visible()
    rank(page, "desk lamp")
    expect(page.locator("main")).to_contain_text("The deployment does not answer")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    page.close()
