"""The lead's page and the timeline in a real browser: quiet, accessible, by keyboard, at every width they are used at."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import Page, expect

from pipeline import noticing, oversight
from pipeline.store import account_rows
from tests.browser_room import House, Watched, enter, sign_in
from tests.reading_room_cases import AUDIT, PRIORITY, ROUTINE, Wanted, add_account

pytestmark = pytest.mark.browser
RULES = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
WHY = "two findings were missed this week"
WELL = "the threshold was mended and checked"


def violations(page: Page) -> list[str]:
    page.evaluate(AXE_FILE_PATH.read_text("utf-8"))
    found: dict[str, Any] = page.evaluate("rules => axe.run(document, {runOnly: rules})", RULES)
    assert found["passes"], "axe has checked nothing"
    return [f"{one['id']}: {one['nodes'][0]['html'][:160]}" for one in found["violations"]]


def overflow(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


def fill(house: House) -> str:
    for minutes in (20, 50, 300, 1300):
        for wanted in (Wanted(), PRIORITY, ROUTINE, AUDIT):
            house.add(replace(wanted, age=timedelta(minutes=minutes)))
    noticing.escalate(house.database, now=house.clock())
    return house.add(Wanted())


@pytest.mark.parametrize("is_stopped", [False, True], ids=["on", "stopped"])
def test_the_lead_page_is_quiet_and_accessible_at_every_width(house: House, watched: Watched, is_stopped: bool) -> None:
    fill(house)
    page = watched.page
    sign_in(page, house, "lead.a", role="lead")
    if is_stopped:
        with house.database.read() as connection:
            found = account_rows.find_for_sign_in(connection, "lead.a")
        assert found is not None
        oversight.stop(house.database, found.account, WHY, now=house.clock())
    for width, height in ((1440, 900), (1280, 800), (1024, 768)):
        page.set_viewport_size({"width": width, "height": height})
        for period in ("24h", "7d", "30d"):
            page.goto(f"{house.url}/lead?period={period}")
            assert overflow(page) <= 0, (width, period)
        for details in page.locator("details").all():
            details.evaluate("element => { element.open = true; }")
        assert violations(page) == []
        assert overflow(page) <= 0
    assert page.locator("svg.plot[role=img][aria-label]").count() == 3
    assert page.locator("svg rect.block").count() > 0
    assert watched.complaints == []
    assert watched.foreign == []


def test_two_leads_stop_and_arm_by_keyboard(house: House, watched: Watched) -> None:
    page = watched.page
    sign_in(page, house, "lead.a", role="lead")
    add_account(house.database, "lead.b", role="lead")
    page.goto(f"{house.url}/lead")

    page.get_by_text("Stop automation…").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type(WHY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Automation is stopped")

    page.get_by_label("Why it may speak again").fill(WELL)
    page.keyboard.press("Enter")
    expect(page.get_by_text("A second person has to ask too")).to_be_visible()
    expect(page.get_by_label("Why it may speak again")).to_have_count(0)

    page.context.clear_cookies()
    enter(page, house, "lead.b")
    page.goto(f"{house.url}/lead")
    page.get_by_label("Why it may speak again").fill(WELL)
    page.keyboard.press("Enter")
    expect(page.get_by_text("Automation is on")).to_be_visible()
    expect(page.get_by_text("lead.a and lead.b")).to_be_visible()
    assert watched.complaints == []


def test_the_timeline_is_quiet_and_accessible_blind_and_whole(house: House, watched: Watched) -> None:
    case_id = fill(house)
    page = watched.page
    sign_in(page, house, "lead.a", role="lead")
    for width, height in ((1440, 900), (1024, 768)):
        page.set_viewport_size({"width": width, "height": height})
        page.goto(f"{house.url}/cases/{case_id}/timeline")
        assert violations(page) == []
        assert overflow(page) <= 0
    page.get_by_text("Open the whole record…").focus()
    page.keyboard.press("Enter")
    assert violations(page) == []
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text("as they were written")).to_be_visible()
    assert violations(page) == []
    assert watched.complaints == []
    assert watched.foreign == []
