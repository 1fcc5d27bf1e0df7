from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from fastapi import FastAPI

from pipeline.dicom.sandbox import Sandbox
from pipeline.errors import HaltPipeline
from pipeline.store import audit_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.web import live
from pipeline.web.live import Bell, Glance
from tests.reading_room_cases import NOW, Clock, Desk, Wanted, add_case, make_room, mr_series, seat


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def app(database: Database, blobs: BlobStore, sandbox: Sandbox, clock: Clock) -> FastAPI:
    return make_room(database, blobs, sandbox, clock)


@pytest.fixture
def desk(app: FastAPI, database: Database) -> Desk:
    return seat(app, database)


def test_a_renewal_holds_the_lines_and_lengthens_no_session(
    database: Database, blobs: BlobStore, desk: Desk, clock: Clock
) -> None:
    add_case(database, blobs, Wanted(), files=mr_series(name="Roe^Rita"))
    assert "Roe, Rita" in desk.get("/worklist/lines?show=all").text
    for _ in range(7):
        clock.advance(minutes=2)
        assert desk.get("/worklist/lines?show=all").status_code == 200
    clock.advance(minutes=2)
    assert desk.get("/worklist/lines?show=all").headers["location"] == "/sign-in"
    assert desk.get("/worklist/events").headers["location"] == "/sign-in"


def test_who_may_see_no_cases_gets_neither_list_nor_news(app: FastAPI, database: Database) -> None:
    desk = seat(app, database, "dr.data", role="data_scientist")
    for path in ("/worklist", "/worklist/lines", "/worklist/events", "/api/worklist"):
        assert desk.get(path).status_code == 403, path
    assert desk.post("/worklist/search", text="ACC-1").status_code == 403
    assert desk.get("/").headers["location"] == "/lead"


def test_who_asks_for_no_stream_gets_the_first_event_and_the_end(desk: Desk) -> None:
    answer = desk.get("/worklist/events")
    assert answer.text == "event: live\ndata: {}\n\n"
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_a_change_of_any_case_rings_and_a_sign_in_does_not(
    app: FastAPI, database: Database, blobs: BlobStore, desk: Desk
) -> None:
    look = live.looks_at(app.state.room)
    case_id = add_case(database, blobs, Wanted())
    quiet = look(frozenset(), None)
    assert not quiet.changed
    with database.transaction() as connection:
        audit_rows.append(connection, at=NOW, actor="somebody", event="sign_in", payload={})
    after = look(frozenset(), quiet.newest)
    assert (after.newest, after.changed) == (quiet.newest + 1, False)
    desk.post(f"/cases/{case_id}/claim")
    assert look(frozenset(), after.newest).changed


def heard(
    script: Sequence[Glance | Exception], *, sessions: tuple[str, ...] = ("me",), events: int
) -> dict[str, list[str]]:
    """What streams of these sessions send while the bell's looks find what the script says, and then nothing new."""
    looks = iter(script)
    everybody = frozenset(sessions)

    def look(_: frozenset[str], __: int | None) -> Glance:
        found = next(looks, Glance(newest=9, changed=False, alive=everybody))
        if isinstance(found, Exception):
            raise found
        return found

    async def one(bell: Bell, session: str) -> list[str]:
        found = []
        stream = live.stream(bell, session, beat=0.2)
        async for text in stream:
            found.append(text.split("event: ")[1].split("\n")[0])
            if len(found) == events:
                break
        await stream.aclose()
        return found

    async def run() -> dict[str, list[str]]:
        bell = Bell(look, every=0.05)
        found = await asyncio.gather(*(one(bell, session) for session in sessions))
        assert bell._watch is None
        return dict(zip(sessions, found, strict=True))

    return asyncio.run(run())


def test_a_ring_reaches_every_page_and_silence_is_beaten() -> None:
    everybody = frozenset({"me", "you"})
    script = [
        Glance(newest=1, changed=False, alive=everybody),
        Glance(newest=2, changed=True, alive=everybody),
    ]
    assert heard(script, sessions=("me", "you"), events=3) == {
        one: ["live", "changed", "beat"] for one in ("me", "you")
    }


def test_a_page_whose_session_ends_is_told_and_let_go() -> None:
    gone = [Glance(newest=1, changed=False, alive=frozenset({"you"}))]
    assert heard(gone, sessions=("me",), events=9) == {"me": ["live", "ended"]}


def test_news_goes_on_after_a_look_that_failed_oddly() -> None:
    looks: list[Glance | Exception] = [
        Glance(newest=1, changed=False, alive=frozenset({"me"})),
        HaltPipeline("the database answered oddly once"),
        Glance(newest=2, changed=True, alive=frozenset({"me"})),
    ]
    assert heard(looks, sessions=("me",), events=2) == {"me": ["live", "changed"]}


def test_of_many_pages_of_one_session_that_come_at_once_three_are_live() -> None:
    async def run() -> list[int]:
        bell = Bell(lambda asked, _: Glance(newest=1, changed=False, alive=asked), every=0.05)
        streams = [live.stream(bell, "me", beat=0.2) for _ in range(30)]
        firsts = await asyncio.gather(*(anext(one, None) for one in streams))
        for one in streams:
            await one.aclose()
        return [index for index, first in enumerate(firsts) if first is not None]

    assert asyncio.run(run()) == [0, 1, 2]
