"""Two people at once: a race for one case, a hold that ends under somebody's hands, two reads that disagree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from pipeline.protocol import Reading, SecondReads
from tests.browser_room import House, Watched, served_house, sign_in, wait_for_images, wait_for_keys, watched_page
from tests.reading_room_cases import Wanted, protocol

pytestmark = pytest.mark.browser
TWICE = protocol().model_copy(update={"reading": Reading(second_reads=SecondReads(share=1.0))})


@pytest.fixture
def desks(browser: Browser, migrated_sqlite: Path, tmp_path: Path) -> Iterator[tuple[House, dict[str, Watched]]]:
    """A room where every case is read twice, and three people in browsers of their own."""
    roles = {"ann": "reader", "ben": "reader", "cleo": "adjudicator"}
    with ExitStack() as opened:
        house = opened.enter_context(served_house(migrated_sqlite, tmp_path, lease=timedelta(minutes=5)))
        house.room.protocols["brain-tumour-mr"] = TWICE
        seen = {name: opened.enter_context(watched_page(browser, house)) for name in roles}
        for name, role in roles.items():
            sign_in(seen[name].page, house, name, role=role)
        yield house, seen


def take(page: Page, house: House, case_id: str) -> None:
    page.goto(f"{house.url}/cases/{case_id}")
    page.get_by_role("button", name="Claim and read").click()
    page.locator("#read-form[data-turn=finding]").wait_for()
    wait_for_keys(page)


def commit(page: Page, finding: str) -> None:
    page.locator(f"input[name=finding][value={finding}]").check()
    page.locator("input[name=certainty][value='4']").check()
    page.get_by_role("button", name="Commit read").click()
    page.get_by_role("heading", name="Your read is committed").wait_for()


def test_of_two_who_claim_one_case_one_reads_it_and_the_other_is_told(desks: tuple[House, dict[str, Watched]]) -> None:
    house, seen = desks
    case_id = house.add(Wanted())
    ann, ben = seen["ann"].page, seen["ben"].page
    for page in (ann, ben):
        page.goto(f"{house.url}/cases/{case_id}")
    ann.get_by_role("button", name="Claim and read").click()
    ann.locator("#read-form").wait_for()
    ben.get_by_role("button", name="Claim and read").click()
    expect(ben.get_by_role("alert")).to_contain_text("nother reader holds this case")
    expect(ben.locator("#read-form")).to_have_count(0)
    commit(ann, "tumour")
    assert seen["ann"].complaints == []


def test_a_hold_that_ended_passes_on_and_its_draft_is_kept(desks: tuple[House, dict[str, Watched]]) -> None:
    house, seen = desks
    case_id = house.add(Wanted())
    ann, ben = seen["ann"].page, seen["ben"].page
    take(ann, house, case_id)
    ann.get_by_label("Comment").fill("a thought worth keeping")
    expect(ann.locator("#draft-state")).to_contain_text("Draft saved")
    house.clock.shift = timedelta(minutes=6)
    take(ben, house, case_id)
    ann.locator("input[name=finding][value=no_tumour]").check()
    ann.locator("input[name=certainty][value='4']").check()
    ann.get_by_role("button", name="Commit read").click()
    expect(ann.get_by_role("alert")).to_contain_text("our hold on this case has ended")
    expect(ann.locator("#kept-comment")).to_have_text("a thought worth keeping")
    assert "a thought worth keeping" not in ben.content()
    commit(ben, "tumour")


def test_two_reads_that_disagree_are_decided_by_a_third_who_sees_both_and_no_answer(
    desks: tuple[House, dict[str, Watched]],
) -> None:
    house, seen = desks
    case_id = house.add(Wanted())
    for name, finding in (("ann", "tumour"), ("ben", "no_tumour")):
        page = seen[name].page
        take(page, house, case_id)
        assert "disagree" not in page.content()
        commit(page, finding)
    cleo = seen["cleo"].page
    take(cleo, house, case_id)
    wait_for_images(cleo)
    expect(cleo.get_by_role("heading", name="Two readers disagree; you decide")).to_be_visible()
    expect(cleo.get_by_role("heading", name="What the model said")).to_have_count(0)
    assert not {"ann", "ben"} & set(cleo.locator("aside.side").inner_text().lower().split())
    commit(cleo, "tumour")
    ann = seen["ann"].page
    ann.goto(f"{house.url}/cases/{case_id}")
    ann.get_by_role("button", name="Show what the model said").click()
    expect(ann.get_by_text("Adjudicator")).to_be_visible()
    assert all(one.foreign == [] for one in seen.values())
