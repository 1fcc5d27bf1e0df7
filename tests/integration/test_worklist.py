from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi import FastAPI
from sqlalchemy import update

from pipeline.dicom.sandbox import Sandbox
from pipeline.domain.case import Reason
from pipeline.store import audit_rows, exposure_rows, live_rows, page_rows, worklist_rows
from pipeline.store.account_rows import Account, Role
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.store.line_rows import Show
from pipeline.store.page_rows import PAGE, Before, Filters
from pipeline.store.reading_order import Place
from pipeline.store.tables import study, worklist_item
from pipeline.web import cursors
from tests.reading_room_cases import NOW, ROUTINE, Clock, Desk, Wanted, add_case, make_room, seat

PSEUDONYM = "0123456789abcdef" * 4


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


def many_items(database: Database, first: str, count: int) -> list[str]:
    """That many more open items of a case's kind, each of a case of its own; their ids in reading order."""
    from sqlalchemy import insert, select

    from pipeline.store.tables import case

    with database.transaction() as connection:
        row = connection.execute(select(case).where(case.c.id == first)).one()._mapping
        for n in range(count):
            at = NOW - timedelta(minutes=5)
            connection.execute(insert(case).values(**{**row, "id": f"{n:032x}", "protocol": f"p{n}"}))
            worklist_rows.schedule_item(
                connection,
                case_id=f"{n:032x}",
                specialty=("neuroradiology", "chest")[n % 2],
                priority=n % 3,
                reasons=["NOVEL"] if n == 77 else ["UNCERTAIN"],
                due_at=NOW + timedelta(minutes=(n * 37) % 90 - 20),
                now=at,
            )
    return []


def pages(desk: Desk, query: str) -> list[list[str]]:
    found, after = [], ""
    while True:
        told = desk.get(f"/api/worklist?{query}&after={after}").json()
        found.append([item["case_id"] for item in told["items"]])
        after = told["after"]
        if after is None:
            return found


def test_pages_hold_every_case_once_and_in_reading_order(
    app: FastAPI, database: Database, blobs: BlobStore, desk: Desk
) -> None:
    first = add_case(database, blobs, Wanted())
    many_items(database, first, 160)
    found = pages(desk, "show=all")
    assert [len(page) for page in found] == [PAGE, PAGE, PAGE, 161 - 3 * PAGE]
    ids = [case_id for page in found for case_id in page]
    assert len(set(ids)) == 161

    def rank(n: int) -> tuple[bool, int, int]:
        due = (n * 37) % 90 - 20
        return (due > 0, -(n % 3), due)

    wanted = sorted(range(160), key=lambda n: (*rank(n), 0))
    got = [int(case_id, 16) for case_id in ids if case_id != first]
    assert [rank(n) for n in got] == [rank(n) for n in wanted]


def test_a_page_deep_in_the_list_costs_what_the_first_one_costs(
    database: Database, blobs: BlobStore, desk: Desk
) -> None:
    if database.url_kind != "sqlite":
        pytest.skip("counts the steps of SQLite's own machine")
    first = add_case(database, blobs, Wanted(priority=0, wait=timedelta(minutes=29)))
    many_items(database, first, 3000)
    reader = Account(id="nobody", name="nobody", role=Role.LEAD, specialties=())

    def steps(after: Place | None) -> int:
        taken = 0

        def note() -> int:
            nonlocal taken
            taken += 1
            return 0

        with database.read() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            driver.set_progress_handler(note, 1)
            asked = {"show": Show.ALL, "filters": Filters(priority=1), "asking": reader, "now": NOW}
            page = page_rows.open_page(connection, **asked, after=after)
            driver.set_progress_handler(None, 0)
            assert len(page.lines) == PAGE
        return taken

    deep = Place(overdue=False, priority=1, due_at=NOW + timedelta(minutes=60), item_id="0")
    assert steps(deep) < 1.2 * steps(Place(overdue=False, priority=1, due_at=NOW + timedelta(seconds=1), item_id="0"))


def test_a_specialtys_pages_and_a_rare_reason_are_found_whole(database: Database, blobs: BlobStore, desk: Desk) -> None:
    first = add_case(database, blobs, Wanted())
    many_items(database, first, 160)
    assert sum(map(len, pages(desk, "show=specialty"))) == 81
    assert pages(desk, "show=all&specialty=chest&reason=NOVEL") == [[f"{77:032x}"]]
    assert pages(desk, "show=all&reason=NOVE") == [[]]
    assert pages(desk, "show=all&protocol=p5&priority=2") == [[f"{5:032x}"]]
    overdue = sum(map(len, pages(desk, "show=all&status=overdue")))
    assert (
        overdue
        == sum((n * 37) % 90 - 20 <= 0 for n in range(160))
        == desk.get("/api/worklist").json()["counts"]["overdue"]
    )


def test_a_filter_that_few_meet_stops_looking_and_says_where_to_go_on(
    database: Database, blobs: BlobStore, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.store.page_rows.LOOKED_AT", 30)
    first = add_case(database, blobs, Wanted())
    many_items(database, first, 100)
    found = pages(desk, "show=all&reason=NOVEL")
    assert len(found) == 4
    assert [case_id for page in found for case_id in page] == [f"{77:032x}"]
    page = desk.get("/worklist?show=all&reason=NOVEL").text
    assert "look further" in page


def test_the_page_leads_to_the_next_one_without_a_patient_in_its_address(
    database: Database, blobs: BlobStore, desk: Desk
) -> None:
    first = add_case(database, blobs, Wanted())
    many_items(database, first, 60)
    page = desk.get("/worklist?show=all&status=").text
    (address,) = re.findall(r'rel="next" href="([^"]+)"', page)
    cursor = cursors.read_cursor(address.split("after=")[1])
    assert isinstance(cursor, Place)
    second = desk.get(address.replace("&amp;", "&")).text
    assert "First page" in second
    assert second.count("<tr data-case") == 61 - PAGE


@pytest.mark.parametrize("after", ["x", "e30", "WzFd", "W3RydWUsNywiMjAyNi0wMS0wMVQwMDowMDowMFoiLCJhIl0", "é"])
def test_a_place_that_was_not_made_here_is_refused(desk: Desk, after: str) -> None:
    assert desk.get(f"/worklist?after={after}").status_code == 422
    assert desk.get(f"/api/worklist?after={after}").status_code == 422


@pytest.mark.parametrize(
    "cursor", [Place(overdue=True, priority=2, due_at=NOW, item_id="a" * 32), Before(at=NOW, id="b" * 32)]
)
def test_a_cursor_is_read_as_it_was_written(cursor: Place | Before) -> None:
    text = cursors.written(cursor)
    assert text is not None
    assert len(text) <= cursors.LONGEST
    assert cursors.read_cursor(text) == cursor


def test_counts_stop_at_a_thousand(
    database: Database, blobs: BlobStore, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.store.line_rows.LARGEST_COUNT", 10)
    monkeypatch.setattr("pipeline.web.worklist.LARGEST_COUNT", 10)
    first = add_case(database, blobs, Wanted())
    many_items(database, first, 30)
    assert desk.get("/api/worklist").json()["counts"]["open"] == 11
    assert '<span class="count">10+</span>' in desk.get("/worklist").text


def test_urgency_and_escalation_are_told_in_words(database: Database, blobs: BlobStore, desk: Desk) -> None:
    calm = add_case(database, blobs, Wanted(age=timedelta(hours=3, minutes=12)))
    soon = add_case(database, blobs, Wanted(age=timedelta(hours=3, minutes=13)))
    late = add_case(database, blobs, Wanted(age=timedelta(hours=4)))
    with database.transaction() as connection:
        connection.execute(update(worklist_item).where(worklist_item.c.case_id == late).values(escalated_at=NOW))
    told = {item["case_id"]: item["urgency"] for item in desk.get("/api/worklist").json()["items"]}
    assert told == {calm: "calm", soon: "soon", late: "overdue"}
    page = desk.get("/worklist").text
    for words, times in (("due soon, ", 1), ("overdue 0 min", 1), ("Escalated <time", 1)):
        assert page.count(words) == times, words


@pytest.mark.parametrize("text", ["ACC-1", "MRN-4711", " ACC-1 ", PSEUDONYM[:6], PSEUDONYM.upper()])
def test_cases_are_found_by_accession_patient_or_pseudonym_and_never_in_an_address(
    database: Database, blobs: BlobStore, desk: Desk, text: str
) -> None:
    case_id = add_case(database, blobs, Wanted())
    with database.transaction() as connection:
        connection.execute(update(study).values(patient_pseudonym=PSEUDONYM))
    found = desk.post("/worklist/search", text=text)
    assert found.status_code == 200
    assert f"/cases/{case_id}" in found.text
    assert [item["case_id"] for item in desk.send("/api/worklist/search", text=text).json()["items"]] == [case_id]
    assert "MRN-4711" not in desk.send("/api/worklist/search", text=text).text
    assert desk.get(f"/worklist/search?text={text}").status_code == 405


@pytest.mark.parametrize("text", ["ACC", "ACC-12", "%", "_", PSEUDONYM[:5], "Doe", "' OR 1=1 --"])
def test_nothing_else_is_found(database: Database, blobs: BlobStore, desk: Desk, text: str) -> None:
    add_case(database, blobs, Wanted())
    with database.transaction() as connection:
        connection.execute(update(study).values(patient_pseudonym=PSEUDONYM))
    assert desk.send("/api/worklist/search", text=text).json()["items"] == []
    assert "No case was found" in desk.post("/worklist/search", text=text).text


def test_a_search_shows_a_reader_the_own_read_and_nothing_of_a_second(
    app: FastAPI, database: Database, blobs: BlobStore, desk: Desk
) -> None:
    case_id = add_case(database, blobs, Wanted())
    desk.post(f"/cases/{case_id}/claim")
    desk.post(f"/cases/{case_id}/commit", fence=1, finding="tumour", certainty=4)
    before = desk.send("/api/worklist/search", text="ACC-1").json()
    shown = desk.post("/worklist/search", text="ACC-1").text
    assert "Read by you" in shown
    with database.transaction() as connection:
        worklist_rows.schedule_item(
            connection,
            case_id=case_id,
            specialty="neuroradiology",
            priority=1,
            reasons=["UNCERTAIN"],
            due_at=NOW + timedelta(hours=1),
            now=NOW,
            round_=2,
        )
    assert desk.send("/api/worklist/search", text="ACC-1").json() == before
    assert desk.post("/worklist/search", text="ACC-1").text == shown
    other = seat(app, database, "dr.weiss").send("/api/worklist/search", text="ACC-1").json()["items"]
    assert [item["state"] for item in other] == ["SCHEDULED"]


def test_a_search_tells_no_route_and_notes_that_a_case_asked_for_no_read(
    database: Database, blobs: BlobStore, desk: Desk
) -> None:
    case_id = add_case(database, blobs, ROUTINE)
    (item,) = desk.send("/api/worklist/search", text="ACC-1").json()["items"]
    assert (item["route"], item["reasons"]) == (None, [])
    with database.read() as connection:
        (seen,) = exposure_rows.of_case(connection, case_id)
    assert seen.kind == "ROUTE"


def test_that_somebody_searched_is_in_the_trail_and_what_for_is_not(
    database: Database, blobs: BlobStore, desk: Desk
) -> None:
    add_case(database, blobs, Wanted())
    desk.post("/worklist/search", text="MRN-4711")
    with database.read() as connection:
        assert live_rows.newest_event(connection) == 1
        assert audit_rows.verify_chain(connection) == []
        row = connection.exec_driver_sql("SELECT event, payload FROM audit_event").one()
    assert tuple(row) == ("worklist.searched", '{"cases":1}')


def test_a_case_is_handed_over_on_the_pages_with_the_draft_kept(
    app: FastAPI, database: Database, blobs: BlobStore, desk: Desk
) -> None:
    case_id = add_case(database, blobs, Wanted())
    other = seat(app, database, "dr.weiss")
    desk.post(f"/cases/{case_id}/claim")
    draft = {"finding": "tumour", "certainty": "4", "comment": "half a thought"}
    page = desk.post(f"/cases/{case_id}/pass-on", fence=1, **draft).text
    assert "<option>dr.weiss</option>" in page
    assert "half a thought" in page
    assert desk.post(f"/cases/{case_id}/hand-over", fence=1, to="dr.weiss", **draft).headers["location"] == "/worklist"
    assert "Handed to you by dr.okafor" in other.get("/worklist?show=mine").text
    assert "Handed to dr.weiss" in desk.get("/worklist?show=all").text
    assert "half a thought" in desk.get(f"/cases/{case_id}").text
    assert "half a thought" not in other.get(f"/cases/{case_id}").text
    assert other.post("/worklist/next").headers["location"] == f"/cases/{case_id}"


@pytest.mark.parametrize("way", ["hand-over", "pause", "pass-on"])
def test_passing_on_with_a_stale_fence_answers_409_and_keeps_the_draft(
    *, app: FastAPI, database: Database, blobs: BlobStore, desk: Desk, clock: Clock, way: str
) -> None:
    case_id = add_case(database, blobs, Wanted())
    other = seat(app, database, "dr.weiss")
    desk.post(f"/cases/{case_id}/claim")
    clock.advance(minutes=10)
    desk.get("/worklist"), other.get("/worklist")
    clock.advance(minutes=6)
    other.post(f"/cases/{case_id}/claim")
    fields = {"finding": "tumour", "certainty": "4", "comment": "my thoughts", "reason": "TECHNICAL", "to": "dr.weiss"}
    answer = desk.post(f"/cases/{case_id}/{way}", fence=1, **fields)
    assert answer.status_code == 409
    assert "your draft is kept" in answer.text.lower()
    for name in ("finding", "certainty", "comment"):
        assert f'name="{name}" value="{fields[name]}"' in answer.text
    assert other.post(f"/cases/{case_id}/commit", fence=2, finding="tumour", certainty="3").is_redirect


def test_a_case_is_put_aside_and_back_on_the_pages(
    app: FastAPI, database: Database, blobs: BlobStore, desk: Desk
) -> None:
    case_id = add_case(database, blobs, Wanted())
    desk.post(f"/cases/{case_id}/claim")
    assert desk.post(f"/cases/{case_id}/pause", fence=1, reason="BORED").status_code == 422
    assert desk.post(f"/cases/{case_id}/pause", fence=1, reason="PRIORS_AWAITED").is_redirect
    other = seat(app, database, "dr.weiss")
    assert "Put aside: priors awaited" in other.get("/worklist?show=all&status=paused").text
    assert other.post("/worklist/next").headers["location"] == "/worklist?empty=true"
    assert "Put it back" in other.get(f"/cases/{case_id}").text
    assert other.post(f"/cases/{case_id}/resume").is_redirect
    assert case_id not in other.get("/worklist?show=all&status=paused").text
    assert other.post("/worklist/next").headers["location"] == f"/cases/{case_id}"


def test_programs_hand_over_pause_and_resume(app: FastAPI, database: Database, blobs: BlobStore, desk: Desk) -> None:
    case_id = add_case(database, blobs, Wanted())
    path = f"/api/cases/{case_id}"
    other, lead = seat(app, database, "dr.weiss"), seat(app, database, "dr.lead", role="lead")
    fence = desk.send("/api/claim").json()["fence"]
    told = desk.send(f"{path}/pause", fence=fence, reason="SECOND_OPINION", until="2026-03-14T04:00:00Z")
    assert told.json() == {"until": "2026-03-14T04:00:00Z"}
    (item,) = other.get("/api/worklist").json()["items"]
    assert (item["pause_reason"], item["paused_until"]) == ("SECOND_OPINION", "2026-03-14T04:00:00Z")
    assert desk.send(f"{path}/pause", fence=fence, reason="SECOND_OPINION").status_code == 409
    assert other.send(f"{path}/resume").status_code == 204
    assert other.send(f"{path}/hand-over", to="dr.okafor").status_code == 403
    assert lead.send(f"{path}/hand-over", to="dr.weiss").json() == {"until": "2026-03-14T04:00:00Z"}
    assert desk.send("/api/claim").status_code == 404  # take-next leaves it to the colleague
    assert other.send("/api/claim").json()["case_id"] == case_id


def test_filters_by_state_tell_held_from_waiting(
    app: FastAPI, database: Database, blobs: BlobStore, desk: Desk
) -> None:
    held, waiting = add_case(database, blobs, Wanted()), add_case(database, blobs, Wanted())
    seat(app, database, "dr.weiss").post(f"/cases/{held}/claim")
    for status, wanted in (("being_read", [held]), ("waiting", [waiting]), ("paused", []), ("overdue", [])):
        assert pages(desk, f"show=all&status={status}") == [wanted]


def test_done_and_unread_pages_go_on_where_they_stopped(
    database: Database, blobs: BlobStore, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.store.page_rows.PAGE", 2)
    made = [add_case(database, blobs, replace(ROUTINE, age=timedelta(minutes=n))) for n in (50, 30, 10)]
    out = replace(ROUTINE, route=Wanted().route.OUT_OF_SCOPE, reasons=(Reason.WRONG_AGE,), age=timedelta(minutes=20))
    other = add_case(database, blobs, out)
    assert pages(desk, "show=unread") == [[made[2], other], [made[1], made[0]]]
    reads = [add_case(database, blobs, Wanted(age=timedelta(minutes=n))) for n in (3, 2, 1)]
    for case_id in reads:
        desk.post(f"/cases/{case_id}/claim")
        desk.post(f"/cases/{case_id}/commit", fence=1, finding="tumour", certainty="3")
    assert sorted(case_id for page in pages(desk, "show=done") for case_id in page) == sorted(reads)
