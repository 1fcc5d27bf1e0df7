"""Every page against WCAG 2.1 AA as axe checks it; no serious violation is let through."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import Browser, Page

from pipeline.domain.case import Reason
from tests.browser_room import House, Watched, enter, sign_in, wait_for_images, watched_page
from tests.reading_room_cases import AUDIT, PRIORITY, ROUTINE, Wanted, add_account

pytestmark = pytest.mark.browser
RULES = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}


def violations(page: Page) -> list[str]:
    """What axe finds, most serious first, with the element."""
    page.evaluate(Path(AXE_FILE_PATH).read_text("utf-8"))
    found: dict[str, Any] = page.evaluate("rules => axe.run(document, {runOnly: rules})", RULES)
    assert found["passes"], "axe has checked nothing"
    return [
        f"{one['impact']} {one['id']}: {node['html'][:160]} {node['any'][0]['message'] if node['any'] else ''}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


def test_axe_sees_what_is_wrong(house: House, watched: Watched) -> None:
    watched.page.goto(f"{house.url}/sign-in")
    watched.page.evaluate("document.querySelector('label').replaceWith(document.querySelector('label input'))")
    assert any("label" in line for line in violations(watched.page))


PAGES = {
    "reader": ("/worklist", "/worklist?show=mine", "/worklist?show=done", "/worklist?show=unread", "/account"),
    "lead": ("/lead", "/worklist?show=all"),
    "admin": ("/people",),
}


@pytest.mark.parametrize("role", PAGES)
@pytest.mark.parametrize("width", [1280, 1024])
def test_no_page_has_a_violation(browser: Browser, house: House, role: str, width: int) -> None:
    for wanted in (Wanted(), PRIORITY, AUDIT, ROUTINE, Wanted(age=timedelta(hours=9))):
        house.add(wanted)
    with watched_page(browser, house, width=width, height=800) as seen:
        assert violations_of(seen.page, house, "/sign-in") == []
        sign_in(seen.page, house, f"dr.{role}", role=role)
        for path in PAGES[role]:
            assert violations_of(seen.page, house, path) == [], path
        assert seen.complaints == []
        assert seen.foreign == []


def violations_of(page: Page, house: House, path: str) -> list[str]:
    page.goto(house.url + path)
    assert page.locator("h1").count() == 1, path
    return violations(page)


def test_a_case_has_no_violation_from_claim_to_comparison(house: House, watched: Watched) -> None:
    case_id = house.add(Wanted(reasons=tuple(Reason)[:6], item_reasons=tuple(Reason)[:6]))
    page = watched.page
    sign_in(page, house)
    page.goto(f"{house.url}/cases/{case_id}")
    wait_for_images(page)
    assert violations(page) == []
    page.get_by_role("button", name="Claim and read").click()
    page.locator("#read-form[data-turn=finding]").wait_for()
    wait_for_images(page)
    assert violations(page) == []
    page.locator("input[name=finding][value=no_tumour]").check()
    page.locator("input[name=certainty][value='4']").check()
    page.get_by_role("button", name="Commit read").click()
    page.get_by_role("heading", name="Your read is committed").wait_for()
    assert violations(page) == []
    page.get_by_role("button", name="Show what the model said").click()
    page.get_by_role("heading", name="What the model said").wait_for()
    assert violations(page) == []
    assert violations_of(page, house, f"/cases/{case_id}/timeline") == []


def test_what_goes_wrong_is_accessible_too(house: House, watched: Watched) -> None:
    add_account(house.database, "dr.look", role="viewer")
    page = watched.page
    page.goto(f"{house.url}/sign-in")
    page.get_by_label("Name").fill("dr.look")
    page.get_by_label("Password").fill("wrong, and long enough")
    page.keyboard.press("Enter")
    page.get_by_role("alert").wait_for()
    assert violations(page) == []
    enter(page, house, "dr.look")
    assert violations_of(page, house, "/cases/" + "0" * 32) == []
    assert violations_of(page, house, "/lead") == []
