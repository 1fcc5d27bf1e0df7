from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from sqlalchemy import select

from pipeline import emergencies
from pipeline.dicom.sandbox import Sandbox
from pipeline.store import audit_rows, notice_rows
from pipeline.store.account_rows import Account, Role
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.store.room_tables import emergency
from pipeline.store.tables import audit_event
from tests.reading_room_cases import Clock, Desk, Wanted, add_account, add_case, make_room, seat

WHY = "Unconscious patient, nobody of the specialty is in the house"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def app(database: Database, blobs: BlobStore, clock: Clock) -> Iterator[FastAPI]:
    with Sandbox() as sandbox:
        yield make_room(database, blobs, sandbox, clock)


@pytest.fixture
def admin(app: FastAPI, database: Database) -> Desk:
    return seat(app, database, "ada", role="admin", specialties=())


def test_an_emergency_opens_this_case_to_this_person_for_an_hour(
    app: FastAPI, database: Database, blobs: BlobStore, admin: Desk, clock: Clock
) -> None:
    case_id, other = add_case(database, blobs, Wanted()), add_case(database, blobs, Wanted())
    second = seat(app, database, "bob", role="admin", specialties=())
    closed = admin.get(f"/cases/{case_id}")
    assert closed.status_code == 403
    assert f"/cases/{case_id}/emergency" in closed.text
    assert "60 minutes" in admin.get(f"/cases/{case_id}/emergency").text
    opened = admin.post(f"/cases/{case_id}/emergency", reason=WHY)
    assert opened.headers["location"] == f"/cases/{case_id}"
    for path in (f"/cases/{case_id}", f"/cases/{case_id}/series", f"/api/cases/{case_id}"):
        assert admin.get(path).status_code == 200, path
        assert admin.get(path.replace(case_id, other)).status_code == 403, path
        assert second.get(path).status_code == 403, path
    assert admin.get("/worklist").status_code == 403
    assert admin.post(f"/cases/{case_id}/claim").status_code == 403
    for minutes in (10, 10, 10, 10, 10, 9):  # an hour but one minute, never idle for long
        clock.advance(minutes=minutes)
        assert admin.get(f"/cases/{case_id}").status_code == 200
    clock.advance(minutes=1)
    assert admin.get(f"/cases/{case_id}").status_code == 403


def test_a_reader_of_another_specialty_claims_in_an_emergency_and_only_that_case(
    app: FastAPI, database: Database, blobs: BlobStore, clock: Clock
) -> None:
    wanted = Wanted(specialty="general_radiology")
    case_id, other = add_case(database, blobs, wanted), add_case(database, blobs, wanted)
    reader = seat(app, database)
    assert reader.post(f"/cases/{case_id}/claim").status_code == 403
    assert reader.post(f"/cases/{case_id}/emergency", reason=WHY).is_redirect
    assert "Claim" in reader.get(f"/cases/{case_id}").text
    assert reader.post(f"/cases/{case_id}/claim").status_code == 303
    assert reader.post(f"/cases/{other}/claim").status_code == 403
    assert reader.post(f"/cases/{case_id}/commit", fence=1, finding="tumour", certainty=4).is_redirect


def test_a_viewer_in_an_emergency_still_claims_nothing(app: FastAPI, database: Database, blobs: BlobStore) -> None:
    case_id = add_case(database, blobs, Wanted())
    viewer = seat(app, database, "dr.look", role="viewer")
    assert viewer.post(f"/cases/{case_id}/emergency", reason=WHY).status_code == 403
    assert viewer.post(f"/cases/{case_id}/claim").status_code == 403


def test_who_may_open_the_case_anyhow_is_told_so(app: FastAPI, database: Database, blobs: BlobStore) -> None:
    case_id = add_case(database, blobs, Wanted())
    for name, role in (("dr.a", "reader"), ("dr.b", "lead")):
        refused = seat(app, database, name, role=role).send(f"/api/cases/{case_id}/emergency", reason=WHY)
        assert refused.status_code == 403
        assert "without an emergency" in refused.json()["detail"]


@pytest.mark.parametrize("reason", ["", "too short", "         x         ", "x" * 1001])
def test_without_a_proper_reason_nothing_opens(database: Database, blobs: BlobStore, admin: Desk, reason: str) -> None:
    case_id = add_case(database, blobs, Wanted())
    assert admin.post(f"/cases/{case_id}/emergency", reason=reason).status_code == 422
    assert admin.send(f"/api/cases/{case_id}/emergency", reason=reason).status_code == 422
    assert admin.get(f"/cases/{case_id}").status_code == 403


def test_an_emergency_is_written_down_and_told_and_its_reason_stays_in_its_row(
    database: Database, blobs: BlobStore, admin: Desk
) -> None:
    case_id = add_case(database, blobs, Wanted())
    answer = admin.send(f"/api/cases/{case_id}/emergency", reason=WHY)
    assert answer.status_code == 201
    assert answer.json() == {"case_id": case_id, "until": "2026-03-14T04:00:00Z"}
    with database.read() as connection:
        (row,) = connection.execute(select(emergency)).all()
        events = connection.execute(select(audit_event).where(audit_event.c.case_id == case_id)).all()
        (told,) = notice_rows.newest(connection, limit=9)
        assert audit_rows.verify_chain(connection) == []
    assert (row.reason, row.case_id) == (WHY, case_id)
    assert [(event.actor, event.event) for event in events][-1] == ("ada", "emergency.opened")
    assert (told.kind, told.content["case"], told.content["actor"]) == ("EMERGENCY", case_id, "ada")
    assert WHY not in str(events) + str(told)


def test_a_case_that_does_not_exist_cannot_be_opened(admin: Desk) -> None:
    assert admin.post("/cases/" + "0" * 32 + "/emergency", reason=WHY).status_code == 404


def test_an_emergency_shows_the_case_without_the_models_answer(
    database: Database, blobs: BlobStore, admin: Desk
) -> None:
    case_id = add_case(database, blobs, Wanted())
    admin.post(f"/cases/{case_id}/emergency", reason=WHY)
    assert admin.get(f"/api/cases/{case_id}").json()["answer"] is None


def test_asking_again_while_the_case_stands_open_changes_nothing_and_tells_nobody(
    database: Database, blobs: BlobStore, admin: Desk, clock: Clock
) -> None:
    case_id = add_case(database, blobs, Wanted())
    path = f"/api/cases/{case_id}/emergency"
    first = admin.send(path, reason=WHY).json()
    for _ in range(5):
        clock.advance(minutes=10)
        assert admin.send(path, reason=WHY).json() == first
    assert rows(database) == (1, 1)
    clock.advance(minutes=10)
    assert admin.send(path, reason=WHY).json()["until"] == "2026-03-14T05:00:00Z"
    assert rows(database) == (2, 2)


def test_one_person_asking_many_times_at_one_moment_opens_the_case_once(
    app: FastAPI, database: Database, blobs: BlobStore, clock: Clock
) -> None:
    case_id, account_id = add_case(database, blobs, Wanted()), add_account(database, "ada", role="admin")
    ada, gate = Account(id=account_id, name="ada", role=Role.ADMIN, specialties=()), threading.Barrier(6)

    def ask() -> None:
        gate.wait()
        emergencies.open_in_emergency(database, ada, case_id, WHY, now=clock())

    asking = [threading.Thread(target=ask) for _ in range(6)]
    for one in asking:
        one.start()
    for one in asking:
        one.join()
    assert rows(database) == (1, 1)


def rows(database: Database) -> tuple[int, int]:
    """How many emergencies were written down, and how many were told."""
    with database.read() as connection:
        return len(connection.execute(select(emergency)).all()), len(notice_rows.newest(connection, limit=99))
