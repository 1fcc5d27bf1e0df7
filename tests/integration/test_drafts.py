from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import Response

from pipeline.dicom.sandbox import Sandbox
from pipeline.protocol import Question, Reading
from pipeline.reading_room import ReadingRoom
from pipeline.store import exposure_rows, read_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.store.room_tables import draft as draft_table
from pipeline.web.room import RoomKeys
from tests.reading_room_cases import ORIGIN, PASSWORD, ROUTINE, Clock, Desk, Wanted, add_case, make_room, protocol, seat

FORM = Reading(
    questions=(
        Question(name="side", label="Side", choices=("left", "right"), required=True, only_for=("tumour",)),
        Question(name="signs", label="Signs", choices=("oedema", "mass_effect"), several=True),
        Question(name="where", label="Where exactly"),
    )
)
DRAFT = {"finding": "tumour", "certainty": "4", "comment": "a thought", "answers": {"side": ["left"]}}
SENT = {"finding": "tumour", "certainty": "4", "comment": "a thought", "answer.side": "left"}


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def app(database: Database, blobs: BlobStore, clock: Clock) -> Iterator[FastAPI]:
    with Sandbox() as sandbox:
        app = make_room(database, blobs, sandbox, clock, keys=RoomKeys(audit=b"a" * 32), idle=timedelta(hours=2))
        app.state.room.protocols["brain-tumour-mr"] = protocol().model_copy(update={"reading": FORM})
        yield app


@pytest.fixture
def signing(database: Database, blobs: BlobStore, clock: Clock) -> Iterator[FastAPI]:
    with Sandbox() as sandbox:
        yield make_room(database, blobs, sandbox, clock, rules=ReadingRoom(signing="password"))


def put(desk: Desk, case_id: str, fence: int = 1, **draft: Any) -> Response:
    return desk.client.put(
        f"/api/cases/{case_id}/draft",
        json={"fence": fence, "draft": draft or DRAFT},
        headers={"Origin": ORIGIN, "X-CSRF-Token": desk.token},
    )


def claimed(desk: Desk, database: Database, blobs: BlobStore) -> str:
    case_id = add_case(database, blobs, Wanted())
    assert desk.post(f"/cases/{case_id}/claim").status_code == 303
    return case_id


def test_a_draft_is_saved_and_back_in_the_form(
    app: FastAPI, database: Database, blobs: BlobStore, clock: Clock
) -> None:
    desk = seat(app, database)
    case_id = claimed(desk, database, blobs)
    assert desk.get(f"/api/cases/{case_id}/draft").status_code == 404
    saved = put(desk, case_id)
    assert saved.status_code == 200
    clock.advance(minutes=1)
    assert put(desk, case_id, **(DRAFT | {"comment": "a second thought"})).status_code == 200
    page = desk.get(f"/cases/{case_id}").text
    assert "a second thought</textarea>" in page
    assert 'value="tumour" data-key="2" required checked' in page
    assert 'name="answer.side" value="left" data-key="1" checked' in page
    told = desk.get(f"/api/cases/{case_id}/draft").json()
    assert told["draft"]["answers"] == {"side": ["left"]}


def test_a_draft_outlives_the_hold_and_is_shown_to_nobody_else(
    app: FastAPI, database: Database, blobs: BlobStore, clock: Clock
) -> None:
    desk, other = seat(app, database), seat(app, database, "dr.weiss", role="lead")
    case_id = claimed(desk, database, blobs)
    assert put(desk, case_id, **(DRAFT | {"comment": "mine alone"})).status_code == 200
    assert put(other, case_id).status_code == 409  # the fence alone is no hold
    clock.advance(minutes=16)  # longer than the lease
    assert put(desk, case_id, **(DRAFT | {"comment": "mine alone, later"})).status_code == 200  # nobody else has it
    assert other.post(f"/cases/{case_id}/claim").status_code == 303
    for path in (f"/cases/{case_id}", f"/api/cases/{case_id}", f"/api/cases/{case_id}/draft", "/worklist?show=mine"):
        assert "mine alone" not in other.get(path).text, path
    assert put(desk, case_id).status_code == 409
    refused = desk.post(f"/cases/{case_id}/commit", fence=1, **(SENT | {"comment": "mine alone, at last"}))
    assert refused.status_code == 409
    assert "mine alone, at last" in refused.text
    other.post(f"/cases/{case_id}/release", fence=2)
    again = desk.post(f"/cases/{case_id}/claim")
    assert again.status_code == 303
    assert "mine alone, at last</textarea>" in desk.get(f"/cases/{case_id}").text


def test_a_commit_removes_the_draft_and_stores_the_answers_with_their_form(
    app: FastAPI, database: Database, blobs: BlobStore
) -> None:
    desk = seat(app, database)
    case_id = claimed(desk, database, blobs)
    put(desk, case_id)
    answer = desk.client.post(
        f"/cases/{case_id}/commit",
        data={"csrf_token": desk.token, "fence": 1, **SENT, "answer.signs": ["mass_effect", "oedema"]},
        headers={"Origin": ORIGIN},
    )
    assert answer.status_code == 303
    assert put(desk, case_id).status_code == 409  # an autosave that comes late
    with database.read() as connection:
        assert connection.execute(draft_table.select()).all() == []
        ((read, _),) = read_rows.reads_of(connection, case_id)
    assert read.answers == {"form": FORM.digest, "answers": {"side": "left", "signs": ["oedema", "mass_effect"]}}
    page = desk.get(f"/cases/{case_id}").text
    assert "Side</dt><dd>left" in page


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"answer.side": ""}, "Answer &#39;Side&#39;"), ({"answer.side": "up"}, "choose one of left, right")],
)
def test_an_unanswered_question_is_named_and_nothing_is_lost(
    app: FastAPI, database: Database, blobs: BlobStore, changed: dict[str, str], words: str
) -> None:
    desk = seat(app, database)
    case_id = claimed(desk, database, blobs)
    refused = desk.post(f"/cases/{case_id}/commit", fence=1, **(SENT | changed))
    assert refused.status_code == 422
    assert words in refused.text
    assert "a thought</textarea>" in refused.text


def test_programs_answer_the_same_form(app: FastAPI, database: Database, blobs: BlobStore) -> None:
    desk = seat(app, database)
    case_id = claimed(desk, database, blobs)
    read = {"fence": 1, "finding": "tumour", "certainty": 4}
    refused = desk.send(f"/api/cases/{case_id}/commit", **read)
    assert (refused.status_code, refused.json()["detail"]) == (422, "answer 'Side'")
    done = desk.send(f"/api/cases/{case_id}/commit", **read, answers={"side": ["right"]})
    assert done.status_code == 201


def test_a_read_that_cannot_be_made_has_its_reason(app: FastAPI, database: Database, blobs: BlobStore) -> None:
    desk = seat(app, database)
    case_id = claimed(desk, database, blobs)
    sent = {"finding": "cannot_be_read", "certainty": "5", "because": "MOTION", "answer.side": "left"}
    assert desk.post(f"/cases/{case_id}/commit", fence=1, **sent).status_code == 303
    assert "The patient moved" in desk.get(f"/cases/{case_id}").text


def test_a_read_is_signed_where_the_site_wants_that(signing: FastAPI, database: Database, blobs: BlobStore) -> None:
    desk = seat(signing, database)
    case_id = claimed(desk, database, blobs)
    page = desk.get(f"/cases/{case_id}").text
    assert 'name="secret" type="password"' in page
    sent = {"finding": "tumour", "certainty": "4", "comment": "a thought"}
    for secret in ({}, {"secret": "not the password at all"}):
        refused = desk.post(f"/cases/{case_id}/commit", fence=1, **sent, **secret)
        assert refused.status_code == 403
        assert "a thought</textarea>" in refused.text
        assert "not the password at all" not in refused.text
    by_program = desk.send(f"/api/cases/{case_id}/commit", fence=1, finding="tumour", certainty=4)
    assert by_program.status_code == 403
    assert desk.post(f"/cases/{case_id}/commit", fence=1, **sent, secret=PASSWORD).status_code == 303


def test_what_was_seen_is_logged_at_its_first_moment(
    app: FastAPI, database: Database, blobs: BlobStore, clock: Clock
) -> None:
    desk = seat(app, database)
    case_id, routine = claimed(desk, database, blobs), add_case(database, blobs, ROUTINE)
    desk.get(f"/cases/{case_id}")
    assert seen(database, case_id) == []
    desk.get(f"/cases/{case_id}/series")
    first = clock()
    clock.advance(minutes=1)
    desk.get(f"/cases/{case_id}/series/0")
    desk.post(f"/cases/{case_id}/commit", fence=1, **SENT)
    desk.get(f"/cases/{routine}")
    assert seen(database, case_id) == [("IMAGES", first)]
    desk.post(f"/cases/{case_id}/reveal")
    assert seen(database, case_id) == [("IMAGES", first), ("ANSWER", clock())]
    assert seen(database, routine) == [("ROUTE", clock())]


def seen(database: Database, case_id: str) -> list[tuple[str, object]]:
    with database.read() as connection:
        return [(one.kind.value, one.at) for one in exposure_rows.of_case(connection, case_id)]


def test_a_draft_must_be_a_draft(app: FastAPI, database: Database, blobs: BlobStore) -> None:
    desk = seat(app, database)
    case_id = claimed(desk, database, blobs)
    for wrong in ({"comment": "x" * 16_001}, {"other": "field"}, {"answers": {"NOT A NAME": ["x"]}}):
        assert put(desk, case_id, **wrong).status_code == 422, wrong
    looking = seat(app, database, "dr.look", role="viewer")
    assert put(looking, case_id).status_code == 403


def test_an_older_tab_does_not_overwrite_a_newer_draft(
    app: FastAPI, database: Database, blobs: BlobStore, clock: Clock
) -> None:
    desk = seat(app, database)
    case_id = claimed(desk, database, blobs)
    first = put(desk, case_id).json()["saved_at"]

    def follow(saved_at: str | None, comment: str) -> Response:
        content = {"fence": 1, "draft": DRAFT | {"comment": comment}, "saved_at": saved_at}
        headers = {"Origin": ORIGIN, "X-CSRF-Token": desk.token}
        return desk.client.put(f"/api/cases/{case_id}/draft", json=content, headers=headers)

    clock.advance(seconds=1)
    newer = follow(first, "of the second tab")
    assert newer.status_code == 200
    clock.advance(seconds=1)
    refused = follow(first, "of the first tab")
    assert (refused.status_code, refused.json()["detail"][:30]) == (409, "another tab has a newer draft ")
    assert desk.get(f"/api/cases/{case_id}/draft").json()["draft"]["comment"] == "of the second tab"
    assert f'data-saved-at="{newer.json()["saved_at"].replace("Z", "+00:00")}"' in desk.get(f"/cases/{case_id}").text
    assert follow(newer.json()["saved_at"], "of the second tab still").status_code == 200
