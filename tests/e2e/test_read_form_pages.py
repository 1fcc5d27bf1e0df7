from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, expect

import tests.browser_room as served
from pipeline.protocol import Question, Reading, SecondReads
from pipeline.store import read_rows
from pipeline.web.room import RoomKeys
from tests.browser_room import House, served_house, sign_in, wait_for_keys
from tests.reading_room_cases import Wanted, make_room, mr_series, protocol

pytestmark = pytest.mark.browser
FORM = Reading(
    questions=(
        Question(name="side", label="Side", choices=("left", "right", "midline"), required=True, only_for=("tumour",)),
        Question(name="signs", label="Signs", choices=("oedema", "mass_effect", "bleeding"), several=True),
        Question(name="where", label="Where exactly"),
    ),
    second_reads=SecondReads(share=1.0),
)


def _room(*args: Any, **more: Any) -> FastAPI:
    app = make_room(*args, keys=RoomKeys(audit=b"a" * 32), **more)
    app.state.room.protocols["brain-tumour-mr"] = protocol().model_copy(update={"reading": FORM})
    return app


@pytest.fixture
def house(migrated_sqlite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr(served, "make_room", _room)
    with served_house(migrated_sqlite, tmp_path) as made:
        yield made


@pytest.fixture
def page(browser: Browser, house: House) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(60_000)
    page.goto(house.url)
    yield page
    page.close()


def opened(page: Page, house: House, case_id: str) -> None:
    page.goto(f"{house.url}/cases/{case_id}")
    wait_for_keys(page)
    page.get_by_role("button", name="Claim and read").click()
    page.locator("#read-form[data-turn=finding]").wait_for()
    wait_for_keys(page)


def test_the_whole_form_is_answered_by_keyboard(house: House, page: Page) -> None:
    case_id = house.add(Wanted(), files=mr_series(slices=9, size=64))
    sign_in(page, house)
    opened(page, house, case_id)
    expect(page.get_by_text("It cannot be read because")).to_be_hidden()
    for key, turn in (("2", "certainty"), ("4", "answer.side"), ("3", "commit")):
        page.keyboard.press(key)
        page.locator(f'#read-form[data-turn="{turn}"]').wait_for()
    page.keyboard.press("q")  # the side again, the first of the questions
    page.keyboard.press("q")
    page.locator('#read-form[data-turn="answer.signs"]').wait_for()
    for key in ("1", "3", "3", "2"):
        page.keyboard.press(key)
    page.keyboard.press("q")
    page.keyboard.type("frontal, 2 cm")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Your read is committed").wait_for()
    with house.database.read() as connection:
        ((read, _),) = read_rows.reads_of(connection, case_id)
    assert read.answers == {
        "form": FORM.digest,
        "answers": {"side": "midline", "signs": ["oedema", "mass_effect"], "where": "frontal, 2 cm"},
    }


def test_a_case_that_cannot_be_read_asks_why_and_nothing_else(house: House, page: Page) -> None:
    case_id = house.add(Wanted())
    sign_in(page, house)
    opened(page, house, case_id)
    page.keyboard.press("0")
    page.locator('#read-form[data-turn="because"]').wait_for()
    expect(page.get_by_text("Side", exact=True)).to_be_hidden()
    page.keyboard.press("5")
    expect(page.locator("#comment")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("0")
    page.keyboard.press("1")
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Your read is committed").wait_for()
    expect(page.get_by_text("The patient moved")).to_be_visible()


def test_a_draft_is_saved_as_it_grows_and_comes_back_on_another_machine(
    house: House, page: Page, browser: Browser
) -> None:
    case_id = house.add(Wanted())
    sign_in(page, house)
    opened(page, house, case_id)
    page.keyboard.press("2")
    page.get_by_label("Comment").fill("a thought worth keeping")
    expect(page.locator("#draft-state")).to_contain_text("Draft saved", timeout=60_000)
    assert page.evaluate("sessionStorage.length") == 0
    page.context.set_offline(True)
    page.get_by_label("Comment").fill("a thought worth keeping, offline")
    expect(page.locator("#draft-state")).to_contain_text("not saved: offline", timeout=60_000)
    assert page.evaluate("sessionStorage.length") == 1
    page.context.set_offline(False)
    expect(page.locator("#draft-state")).to_contain_text("Draft saved", timeout=60_000)
    cookies = page.context.cookies()
    elsewhere = browser.new_context()
    elsewhere.add_cookies(cookies)  # type: ignore[arg-type]
    other = elsewhere.new_page()
    other.goto(f"{house.url}/cases/{case_id}")
    expect(other.locator("#comment")).to_have_value("a thought worth keeping, offline")
    expect(other.locator("#draft-state")).to_contain_text("Your draft of")
    elsewhere.close()
