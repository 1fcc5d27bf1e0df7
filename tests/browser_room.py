"""A served reading room and a watched browser, for tests that look at pages as a reader does."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from playwright.sync_api import Browser, Page, Request, expect

from pipeline.dicom.sandbox import Sandbox
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database, open_database
from pipeline.web.room import Room
from tests.reading_room_cases import PASSWORD, Wanted, add_account, add_case, make_room

QUIET = [
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class ShiftedClock:
    """The real clock, which the browser has too, plus what a test adds."""

    def __init__(self) -> None:
        self.shift = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.shift


@dataclass
class House:
    """A served reading room."""

    url: str
    database: Database
    blobs: BlobStore
    clock: ShiftedClock
    room: Room

    def add(self, wanted: Wanted, **more: Any) -> str:
        return add_case(self.database, self.blobs, wanted, now=self.clock(), **more)


@dataclass
class Watched:
    """A page, with every complaint of the browser and every request that left for elsewhere."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


@contextmanager
def served_house(migrated: Path, folder: Path, **more: Any) -> Iterator[House]:
    """A room on a copy of a migrated database; `more` goes to `create_app`."""
    copy = folder / "room.db"
    shutil.copy(migrated, copy)
    database, blobs, clock = open_database(f"sqlite:///{copy}"), BlobStore(folder / "blobs"), ShiftedClock()
    with Sandbox() as sandbox, socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        app = make_room(database, blobs, sandbox, clock, **more)  # type: ignore[arg-type]
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="error", ws="none", lifespan="off", timeout_graceful_shutdown=2)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield House(f"http://127.0.0.1:{bound.getsockname()[1]}", database, blobs, clock, app.state.room)
        server.should_exit = True
        thread.join()
    database.close()


@contextmanager
def watched_page(browser: Browser, house: House, *, width: int = 1440, height: int = 900) -> Iterator[Watched]:
    """A page in a browser of its own (cookies apart), with its complaints written down."""
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    page.set_default_timeout(60_000)
    seen = Watched(page)
    page.on("console", lambda message: seen.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))

    def note(request: Request) -> None:
        if not request.url.startswith((house.url, "blob:", "data:")):
            seen.foreign.append(request.url)

    page.on("request", note)
    yield seen
    context.close()


def sign_in(page: Page, house: House, name: str = "dr.okafor", **account: Any) -> None:
    """Make an account and sign in with it."""
    add_account(house.database, name, **account)
    enter(page, house, name)


def enter(page: Page, house: House, name: str) -> None:
    """Sign in with an account that exists."""
    page.goto(f"{house.url}/sign-in")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "/sign-in" not in url)


def wait_for_keys(page: Page) -> None:
    """Until the page's keys work."""
    page.locator("body[data-keys=ready]").wait_for()


def wait_for_images(page: Page) -> None:
    """Until the first image is drawn."""
    expect(page.locator("#viewer")).to_have_attribute("data-state", "ready", timeout=60_000)
    page.wait_for_function("document.getElementById('corner-slice').textContent !== ''")
