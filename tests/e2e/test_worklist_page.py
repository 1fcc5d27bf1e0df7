from __future__ import annotations

import re
from datetime import timedelta

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from pipeline import claiming
from pipeline.store import account_rows
from pipeline.store.account_rows import Account
from tests.browser_room import House, Watched, sign_in, wait_for_keys
from tests.reading_room_cases import PRIORITY, Wanted, add_account, mr_series

pytestmark = pytest.mark.browser


def colleague(house: House, name: str = "dr.weiss") -> Account:
    add_account(house.database, name)
    with house.database.read() as connection:
        found = account_rows.find_for_sign_in(connection, name)
    assert found is not None
    return found.account


def take(house: House, who: Account, case_id: str) -> int:
    claim = claiming.claim_case(house.database, who, case_id, lease=timedelta(minutes=15), now=house.clock())
    return claim.fence


def test_the_list_renews_itself_and_leaves_focus_and_other_rows_alone(house: House, watched: Watched) -> None:
    first, second = house.add(Wanted(age=timedelta(hours=1))), house.add(Wanted())
    other, page = colleague(house), watched.page
    sign_in(page, house)
    wait_for_keys(page)
    expect(page.locator("#live")).to_have_text("Live")
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(page.locator(f'tr[data-case="{second}"] a.open')).to_be_focused()
    page.evaluate("for (const row of document.querySelectorAll('tr[data-case]')) row.marked = true")
    take(house, other, first)
    expect(page.locator(f'tr[data-case="{first}"]')).to_contain_text("Being read by dr.weiss")
    added = house.add(PRIORITY, files=mr_series(name="Roe^Rita"))
    fence = take(house, other, added)
    claiming.release_case(house.database, other, added, fence, now=house.clock())
    expect(page.locator(f'tr[data-case="{added}"]')).to_contain_text("Roe, Rita")
    expect(page.locator("#news")).to_have_text("The list changed: 1 case added.")
    expect(page.locator(f'tr[data-case="{second}"] a.open')).to_be_focused()
    assert page.evaluate("document.querySelectorAll('tr[data-case]').length") == 3
    assert page.evaluate("[...document.querySelectorAll('tr[data-case]')].filter(row => row.marked).length") == 2
    page.keyboard.press("k")
    expect(page.locator(f'tr[data-case="{first}"] a.open')).to_be_focused()
    assert watched.complaints == []
    assert watched.foreign == []


def test_a_list_without_news_says_so_and_comes_back(house: House, watched: Watched) -> None:
    house.add(Wanted())
    page = watched.page
    page.route("**/worklist/events", lambda route: route.abort())
    sign_in(page, house)
    expect(page.locator("#live")).to_have_text(re.compile("Not live"))
    page.unroute("**/worklist/events")
    page.reload()
    expect(page.locator("#live")).to_have_text("Live")


def test_a_renewal_that_fails_is_told_with_a_way_to_try_again(house: House, watched: Watched) -> None:
    house.add(Wanted())
    other, page = colleague(house), watched.page
    sign_in(page, house)
    expect(page.locator("#live")).to_have_text("Live")
    page.route("**/worklist/lines*", lambda route: route.abort())
    added = house.add(Wanted())
    fence = take(house, other, added)
    expect(page.locator("#stale")).to_contain_text("could not be renewed")
    page.unroute("**/worklist/lines*")
    claiming.release_case(house.database, other, added, fence, now=house.clock())
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#stale")).to_be_hidden()
    expect(page.locator("tr[data-case]")).to_have_count(2)


def test_without_a_script_the_page_works(house: House, browser: Browser) -> None:
    house.add(Wanted())
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    sign_in(page, house)
    page.get_by_label("Priority").select_option("Medium")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("tr[data-case]")).to_have_count(1)
    page.get_by_label("Priority").select_option("High")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_text("Nothing fits these filters.")).to_be_visible()
    page.get_by_label(re.compile("Accession number")).fill("ACC-1")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("link", name="Doe, Jane")).to_be_visible()
    assert "ACC-1" not in page.url
    page.get_by_role("link", name="Back to the worklist").click()
    page.get_by_role("button", name=re.compile("Take next")).click()
    page.wait_for_url("**/cases/*")
    context.close()


def test_a_held_case_is_handed_over_with_what_was_written(house: House, watched: Watched) -> None:
    case_id = house.add(Wanted())
    colleague(house)
    page = watched.page
    sign_in(page, house)
    wait_for_keys(page)
    page.keyboard.press("n")
    page.wait_for_url(f"**/cases/{case_id}")
    page.get_by_label("Comment").fill("half a thought")
    page.get_by_role("button", name=re.compile("Hand over or put aside")).click()
    expect(page.get_by_text("half a thought")).to_be_visible()
    page.get_by_label("Colleague", exact=True).select_option("dr.weiss")
    page.get_by_role("button", name="Hand over").click()
    page.wait_for_url("**/worklist")
    expect(page.locator(f'tr[data-case="{case_id}"]')).to_contain_text("Handed to dr.weiss")


@pytest.mark.parametrize("width", [1440, 1280, 1024])
def test_the_worklist_fits_and_is_accessible(house: House, watched: Watched, width: int) -> None:
    for minutes in (5, 200, 250):
        house.add(Wanted(age=timedelta(minutes=minutes)), files=mr_series(name="Lindqvist-Oyelaran^Maximiliane"))
    page = watched.page
    page.set_viewport_size({"width": width, "height": 900})
    sign_in(page, house)
    for path in ("/worklist?show=all", "/worklist?show=done", "/worklist?show=all&reason=NOVEL"):
        page.goto(house.url + path)
        wait_for_keys(page)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
        found = Axe().run(page).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in found] == [], path
    assert watched.complaints == []
