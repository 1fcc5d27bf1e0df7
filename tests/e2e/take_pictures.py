"""`make pictures`: the README's pictures, taken from a demo's home as a reader would see it.

Usage: python -m tests.e2e.take_pictures HOME FOLDER
"""

import shutil
import socket
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import uvicorn
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from flows.accounts import make_account
from flows.bootstrap import House, open_house
from flows.service_commands import room
from pipeline import claiming, review
from pipeline.dicom.secondary_capture import page as result_page
from pipeline.domain.result import Absent, Findings
from pipeline.settings import Settings
from pipeline.store import account_rows
from pipeline.store.account_rows import Account
from tests.browser_room import QUIET
from tests.results import a_read_result, a_result

READER = "dr-okafor"


def main(home: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    take_result_pages(folder)
    with open_house(Settings(home=home)) as house, socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(room(house), log_level="error", ws="none", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        while not server.started:
            time.sleep(0.02)
        try:
            _walk(house, f"http://127.0.0.1:{bound.getsockname()[1]}", folder)
        finally:
            server.should_exit = True
            thread.join()


def take_result_pages(folder: Path) -> None:
    """What a PACS shows of one case: while a clinician reads it blind, and afterwards."""
    withheld = {"numbers": None, "absent": Absent.WITHHELD, "findings": Findings.WITHHELD, "asserted": False}
    before = a_result(route="REVIEW", reasons=("UNCERTAIN",), **withheld)
    after = a_read_result(route="REVIEW", reasons=("UNCERTAIN",))
    both = Image.fromarray(np.hstack([result_page(before), result_page(after)]))
    both.crop((0, 0, both.width, 560)).resize((both.width // 2, 280)).save(folder / "result_pages.png")


def _walk(house: House, url: str, folder: Path) -> None:
    passwords = {
        name: make_account(house, name, role=role, specialties=None)
        for name, role in ((READER, "reader"), ("dr-weiss", "reader"), ("dr-adeyemi", "adjudicator"), ("head", "lead"))
    }
    disputed = _read_some(house)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), chromium_sandbox=False, args=QUIET
        )

        def desk(name: str, height: int = 900) -> Page:
            page = browser.new_context(viewport={"width": 1440, "height": height}).new_page()
            page.goto(f"{url}/sign-in")
            page.screenshot(path=folder / "sign_in.png")
            page.get_by_label("Name").fill(name)
            page.get_by_label("Password").fill(passwords[name])
            page.keyboard.press("Enter")
            page.wait_for_url(lambda at: "/sign-in" not in at)
            return page

        reader = desk(READER)
        reader.set_viewport_size({"width": 1440, "height": 1100})
        reader.screenshot(path=folder / "worklist.png")
        reader.set_viewport_size({"width": 1440, "height": 900})
        _read_one(reader, url, folder)
        _adjudicate(desk("dr-adeyemi"), f"{url}/cases/{disputed}", folder)
        lead = desk("head")
        lead.goto(f"{url}/lead")
        lead.screenshot(path=folder / "lead.png", full_page=True)
        browser.close()


def _read_some(house: House) -> str:
    """Two people read a few cases, once differently; the case of that disagreement."""
    rules = next(iter(house.protocols.values()))
    first, second = _account(house, READER), _account(house, "dr-weiss")
    disputed = ""
    for place in range(14):
        who = (first, second)[place % 2]
        finding = rules.class_names[0 if place == 13 else place % 3 % 2]
        disputed = _read(house, who, finding, 1 if place == 13 else 4) or disputed
    _read(house, first, rules.class_names[1], 3, case_id=disputed)
    return disputed


def _account(house: House, name: str) -> Account:
    with house.database.read() as connection:
        found = account_rows.find_for_sign_in(connection, name)
    assert found
    return found.account


def _read(house: House, who: Account, finding: str, certainty: int, *, case_id: str | None = None) -> str:
    now, lease = datetime.now(UTC), timedelta(minutes=30)
    if case_id is None:
        claim = claiming.claim_next(house.database, who, lease=lease, now=now)
    else:
        claim = claiming.claim_case(house.database, who, case_id, lease=lease, now=now)
    if claim is None:
        raise SystemExit("the demo left nothing to read")
    rules = next(iter(house.protocols.values()))
    read = review.Read(finding=finding, certainty=certainty)
    review.commit_read(
        house.database, who, claim.case_id, claim.fence, read, reading=rules.reading, now=datetime.now(UTC)
    )
    return claim.case_id


def _drawn(page: Page) -> None:
    page.locator("#viewer[data-state=ready]").wait_for()
    page.wait_for_function("document.getElementById('corner-slice').textContent !== ''")


def _read_one(page: Page, url: str, folder: Path) -> None:
    """The next case: claimed, seen in three planes, measured, committed, revealed; and what happened to it."""
    page.locator("body[data-keys=ready]").wait_for()
    page.keyboard.press("n")
    page.locator("#read-form[data-turn=finding]").wait_for()
    _drawn(page)
    page.screenshot(path=folder / "case.png")
    page.keyboard.press("p")
    page.wait_for_function(
        "[...document.querySelectorAll('#stage [data-pane]:not([hidden]) .corner-slice')].filter(e => e.textContent).length === 3"
    )
    page.keyboard.press("m")
    box = page.locator("[data-pane=main] .slice").bounding_box()
    assert box
    x, y = box["x"] + box["width"] * 0.42, box["y"] + box["height"] * 0.45
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 40, steps=5)
    page.mouse.up()
    page.wait_for_timeout(500)
    page.screenshot(path=folder / "planes.png")
    page.keyboard.press("p")
    page.keyboard.press("2")
    page.keyboard.press("4")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Your read is committed").wait_for()
    page.locator("body[data-keys=ready]").wait_for()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="What the model said").wait_for()
    _drawn(page)
    page.screenshot(path=folder / "reveal.png")
    page.get_by_role("link", name="What happened to it").click()
    page.wait_for_url("**/timeline")
    page.screenshot(path=folder / "timeline.png")


def _adjudicate(page: Page, address: str, folder: Path) -> None:
    page.goto(address)
    page.get_by_role("button", name="Claim and read").click()
    page.locator("#read-form").wait_for()
    _drawn(page)
    page.screenshot(path=folder / "adjudication.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
