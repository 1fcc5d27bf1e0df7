from __future__ import annotations

import re
from datetime import timedelta

import pytest
from playwright.sync_api import expect

from pipeline.domain.case import Reason
from tests.browser_room import House, Watched, sign_in, wait_for_keys
from tests.reading_room_cases import PASSWORD, PRIORITY, Wanted

pytestmark = pytest.mark.browser


def test_a_case_is_taken_read_and_compared_by_keyboard_alone(house: House, watched: Watched) -> None:
    house.add(Wanted())
    urgent = house.add(PRIORITY)
    page = watched.page
    sign_in(page, house)
    wait_for_keys(page)
    page.keyboard.press("n")
    page.wait_for_url(f"**/cases/{urgent}")
    page.locator("#read-form[data-turn=finding]").wait_for()
    assert "What the model said" not in page.content()
    page.keyboard.press("2")
    page.keyboard.press("4")
    assert page.get_by_label("Tumour", exact=False).nth(1).is_checked()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Your read is committed")).to_be_visible()
    wait_for_keys(page)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="What the model said")).to_be_visible()
    wait_for_keys(page)
    page.keyboard.press("d")
    expect(page.get_by_text("You stand by your read")).to_be_visible()
    wait_for_keys(page)
    page.keyboard.press("n")
    page.wait_for_url(lambda url: urgent not in url and "/cases/" in url)
    assert watched.complaints == []
    assert watched.foreign == []


def test_the_draft_survives_a_lost_session_and_an_ended_claim(house: House, watched: Watched) -> None:
    case_id = house.add(Wanted())
    page = watched.page
    sign_in(page, house)
    page.goto(f"{house.url}/cases/{case_id}")
    page.get_by_role("button", name="Claim and read").click()
    page.locator("#read-form[data-turn=finding]").wait_for()
    page.get_by_label("Comment").fill("a thought worth keeping")
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    house.clock.shift = timedelta(hours=1)
    page.keyboard.press("3")
    page.get_by_role("button", name="Commit read").click()
    page.wait_for_url("**/sign-in")
    page.get_by_label("Name").fill("dr.okafor")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/worklist")
    page.goto(f"{house.url}/cases/{case_id}")
    page.get_by_role("button", name="Claim and read").click()
    page.locator("#read-form[data-turn=commit]").wait_for()
    expect(page.get_by_label("Comment")).to_have_value("a thought worth keeping")
    assert page.locator("input[name=finding][value=no_tumour]").is_checked()
    assert page.locator("input[name=certainty][value='3']").is_checked()


def test_cannot_be_read_asks_why(house: House, watched: Watched) -> None:
    case_id = house.add(Wanted())
    page = watched.page
    sign_in(page, house)
    page.goto(f"{house.url}/cases/{case_id}")
    page.get_by_role("button", name="Claim and read").click()
    page.locator("#read-form[data-turn=finding]").wait_for()
    page.keyboard.press("0")
    page.locator("#read-form[data-turn=because]").wait_for()
    page.keyboard.press("5")
    expect(page.locator("#comment")).to_be_focused()
    page.keyboard.type("moved too much, 3 slices at most")
    page.locator("input[name=certainty][value='5']").check()
    page.get_by_role("button", name="Commit read").click()
    expect(page.get_by_text("Cannot be read")).to_be_visible()


@pytest.mark.parametrize("width", [1440, 900])
def test_pages_fit_their_width_and_name_their_parts(house: House, watched: Watched, width: int) -> None:
    case_id = house.add(Wanted(reasons=tuple(Reason)[:6], item_reasons=tuple(Reason)[:6]))
    house.add(PRIORITY)
    page = watched.page
    page.set_viewport_size({"width": width, "height": 900})
    sign_in(page, house)
    for path in ("/worklist?show=all", "/worklist?show=unread", f"/cases/{case_id}"):
        page.goto(house.url + path)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
        assert page.locator("h1").count() == 1
        unnamed = page.evaluate(
            "[...document.querySelectorAll('button, input:not([type=hidden]), select, textarea, a')]"
            ".filter(e => !(e.labels?.length || e.textContent.trim() || e.ariaLabel)).map(e => e.outerHTML)"
        )
        assert unnamed == []
    assert watched.complaints == []


def test_moments_are_shown_in_the_readers_own_time(house: House, watched: Watched) -> None:
    house.add(Wanted())
    page = watched.page
    sign_in(page, house)
    expect(page.locator("td time").first).to_have_text(re.compile(r"^(\d\d \w{3} )?\d\d:\d\d$"))
