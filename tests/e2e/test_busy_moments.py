from __future__ import annotations

import pytest
from playwright.sync_api import Route

from tests.browser_room import House, Watched, sign_in, wait_for_images, wait_for_keys
from tests.reading_room_cases import Wanted

pytestmark = pytest.mark.browser


def test_taking_the_next_case_twice_in_a_hurry_takes_one(house: House, watched: Watched) -> None:
    for _ in range(3):
        house.add(Wanted())
    page, held = watched.page, list[Route]()
    sign_in(page, house)
    wait_for_keys(page)
    page.route("**/worklist/next", lambda route: held.append(route))  # noqa: PLW0108 - Playwright marks what it is given
    with page.expect_request("**/worklist/next"):
        page.keyboard.press("n")
    page.keyboard.press("n")
    page.locator("#take-next button").dblclick(no_wait_after=True)
    page.keyboard.down("n")
    page.keyboard.down("n")
    page.keyboard.up("n")
    page.evaluate("() => new Promise(done => setTimeout(done, 100))")
    assert len(held) == 1
    held[0].continue_()
    page.wait_for_url("**/cases/*")
    page.go_back()
    wait_for_keys(page)
    with page.expect_request("**/worklist/next"):
        page.keyboard.press("n")
    assert len(held) == 2


def test_images_that_are_refused_for_a_moment_are_asked_for_again(house: House, watched: Watched) -> None:
    case_id, refused = house.add(Wanted()), list[str]()

    def refuse(route: Route) -> None:
        refused.append(route.request.url)
        if len(refused) <= 2:
            route.fulfill(status=503, headers={"Retry-After": "1"})
        else:
            route.continue_()

    sign_in(watched.page, house)
    watched.page.route("**/slices/*/pixels", refuse)
    watched.page.goto(f"{house.url}/cases/{case_id}?rendering=cpu")
    wait_for_images(watched.page)
    assert len(refused) == 3
