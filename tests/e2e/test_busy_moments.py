from __future__ import annotations

import pytest
from playwright.sync_api import Route

from tests.browser_room import House, Watched, sign_in, wait_for_images, wait_for_keys
from tests.reading_room_cases import Wanted

pytestmark = pytest.mark.browser


SENT = """() => { window.sent = 0; addEventListener('submit', (event) => {
    if (!event.defaultPrevented) window.sent += 1;
    event.preventDefault(); }); }"""


def test_taking_the_next_case_several_times_in_a_hurry_sends_one_request(house: House, watched: Watched) -> None:
    house.add(Wanted())
    page = watched.page
    sign_in(page, house)
    wait_for_keys(page)
    page.evaluate(SENT)
    page.keyboard.press("n")
    page.locator("#take-next button").dblclick()
    page.keyboard.down("n")
    page.keyboard.down("n")
    page.keyboard.up("n")
    assert page.evaluate("window.sent") == 1
    page.evaluate("dispatchEvent(new Event('pageshow'))")
    page.keyboard.press("n")
    assert page.evaluate("window.sent") == 2


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
