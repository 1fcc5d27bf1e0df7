"""`make pictures`: the README's pictures, taken from a demo's home as a reader would see it.

Usage: python -m tests.e2e.take_pictures HOME FOLDER
"""

import shutil
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
import uvicorn
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from flows.accounts import make_account
from flows.bootstrap import House, open_house
from flows.service_commands import room
from pipeline.dicom.secondary_capture import page as result_page
from pipeline.domain.result import Absent, Findings
from pipeline.settings import Settings
from tests.results import a_read_result, a_result

QUIET = [
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
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
    password = make_account(house, READER, role="reader", specialties=None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), chromium_sandbox=False, args=QUIET
        )
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(url)
        page.get_by_label("Name").fill(READER)
        page.get_by_label("Password").fill(password)
        page.keyboard.press("Enter")
        page.wait_for_url("**/worklist")
        page.set_viewport_size({"width": 1440, "height": 1500})
        page.screenshot(path=folder / "worklist.png")
        page.set_viewport_size({"width": 1440, "height": 900})
        _read_one(page, folder)
        browser.close()


def _read_one(page: Page, folder: Path) -> None:
    """The first case: claimed, seen, committed, revealed."""
    page.locator("body[data-keys=ready]").wait_for()
    page.keyboard.press("n")
    page.locator("#read-form[data-turn=finding]").wait_for()
    page.locator("#viewer[data-state=ready]").wait_for()
    page.wait_for_function("document.getElementById('corner-slice').textContent !== ''")
    page.screenshot(path=folder / "case.png")
    page.keyboard.press("2")
    page.keyboard.press("4")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Your read is committed").wait_for()
    page.locator("body[data-keys=ready]").wait_for()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="What the model said").wait_for()
    page.locator("#viewer[data-state=ready]").wait_for()
    page.wait_for_function("document.getElementById('corner-slice').textContent !== ''")
    page.screenshot(path=folder / "reveal.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
