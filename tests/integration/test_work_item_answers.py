from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import select, update

from pipeline.errors import HaltPipeline
from pipeline.store import account_rows
from pipeline.store.account_rows import OUTSIDE_NAME
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.store.tables import account, case, worklist_item
from pipeline.web import hardening
from tests.live_room import BEARER
from tests.other_system import (
    BASE,
    OURS,
    System,
    asked_study,
    complete,
    dataset,
    events,
    open_room,
    study_of,
)
from tests.reading_room_cases import (
    AUDIT,
    PLANTED,
    PRIORITY,
    RELEASE,
    ROUTINE,
    Clock,
    Wanted,
    add_account,
    add_case,
    mr_series,
    visitor,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def app(database: Database, blobs: BlobStore, clock: Clock) -> Iterator[FastAPI]:
    with open_room(database, blobs, clock) as opened:
        yield opened


@pytest.fixture
def system(app: FastAPI) -> System:
    return System(visitor(app).client)


def test_a_read_of_a_known_study_can_be_asked_for_once(database: Database, blobs: BlobStore, system: System) -> None:
    uid = study_of(database, add_case(database, blobs, ROUTINE))
    made = system.ask("POST", "", asked_study(uid))
    assert made.status_code == 201
    (item,) = system.items("?ProcedureStepState=SCHEDULED")
    assert made.headers["location"] == f"{BASE}/{item.SOPInstanceUID}"
    assert item.CommentsOnTheScheduledProcedureStep == "A colleague asked for this read."
    assert system.ask("POST", "", asked_study(uid)).status_code == 409
    assert complete_whole(system, str(item.SOPInstanceUID)) == (200, 200)
    assert len(events(database, "read.requested")) == 1


def complete_whole(system: System, uid: str) -> tuple[int, int]:
    return system.change(uid, "IN PROGRESS"), complete(system, uid)


def test_what_cannot_be_asked_for_is_refused(database: Database, blobs: BlobStore, system: System) -> None:
    waiting = study_of(database, add_case(database, blobs, Wanted()))
    routine = study_of(database, add_case(database, blobs, ROUTINE, files=mr_series()))
    for content, status in (
        (asked_study(waiting), 409),
        (asked_study("1.2.3.4.5"), 409),
        (asked_study(routine, WorklistLabel="chest-ct"), 409),
        ({}, 400),
        ([asked_study(routine)] * 2, 400),
        ("text", 400),
    ):
        assert system.ask("POST", "", content).status_code == status, content
    assert system.ask("POST", "?1.2.3", asked_study(routine)).status_code == 400
    assert len(system.items()) == 1


def test_the_newest_case_is_the_one_that_counts(database: Database, blobs: BlobStore, system: System) -> None:
    case_id = add_case(database, blobs, ROUTINE)
    with database.transaction() as connection:
        connection.execute(update(case).where(case.c.id == case_id).values(state="SUPERSEDED"))
    assert system.ask("POST", "", asked_study(study_of(database, case_id))).status_code == 409


def everything(system: System) -> str:
    answers = [system.ask("GET"), *(system.ask("GET", f"/{item.SOPInstanceUID}") for item in system.items())]
    return "\n".join(f"{dict(answer.headers)}\n{answer.text}" for answer in answers)


@pytest.mark.parametrize("wanted", [Wanted(), PRIORITY, AUDIT], ids=["review", "priority", "audit"])
def test_nothing_of_the_models_answer_is_told(
    app: FastAPI, database: Database, blobs: BlobStore, system: System, wanted: Wanted
) -> None:
    add_case(database, blobs, wanted)
    uid = system.uid()
    shown = [everything(system)]
    assert system.change(uid, "IN PROGRESS") == 200
    shown.append(everything(system))
    assert complete(system, uid) == 200
    shown.append(everything(system))
    spelt = [f"{value:.{digits}f}" for value in PLANTED for digits in (2, 3, 5)] + [RELEASE[:12]]
    for text in shown:
        assert "PatientName" not in text  # by tag, not by keyword
        assert [word for word in spelt if word in text] == []
        assert not re.search(r"ROUTINE|PRIORITY|REVIEW|CONFIDENT|audit", text)


def test_an_audit_item_looks_like_any_other(database: Database, blobs: BlobStore, system: System) -> None:
    add_case(database, blobs, Wanted())
    add_case(database, blobs, replace(AUDIT, wait=Wanted().wait), files=mr_series())
    found = [json.loads(item.to_json()) for item in system.items()]
    for item in found:
        del item["00080018"], item["0040A370"]
    assert found[0] == found[1]


@pytest.mark.parametrize("uid", ["1.2.3", "2.25.", "2.25.0", "2.25.007", f"2.25.{1 << 128}", "2.25.x", "2.25.٣", "%00"])
def test_an_unknown_uid_is_nowhere(system: System, uid: str) -> None:
    for answer in (
        system.ask("GET", f"/{uid}"),
        system.ask("PUT", f"/{uid}/state", dataset(ProcedureStepState="IN PROGRESS", TransactionUID=OURS)),
        system.ask("POST", f"/{uid}/cancelrequest"),
    ):
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        [{}, {}],
        {"00741000": "IN PROGRESS", "00081195": OURS},
        {"00741000": {"Value": "IN PROGRESS"}, "00081195": {"Value": OURS}},
        {"00741000": {"vr": "CS", "Value": ["IN PROGRESS"]}},
        {"00741000": {"vr": "CS", "Value": ["IN PROGRESS"]}, "00081195": {"vr": "UI", "Value": ["x" * 65]}},
        {"00741000": {"vr": "CS", "Value": ["IN PROGRESS"]}, "00081195": {"vr": "UI", "Value": ["1" * 65]}},
        {"00741000": {"vr": "CS", "Value": [None]}, "00081195": {"vr": "UI", "Value": [OURS]}},
    ],
)
def test_a_change_that_cannot_be_understood_changes_nothing(
    database: Database, blobs: BlobStore, system: System, content: Any
) -> None:
    add_case(database, blobs, Wanted())
    uid = system.uid()
    assert system.ask("PUT", f"/{uid}/state", content).status_code == 400
    assert system.state(uid) == "SCHEDULED"


def test_bodies_of_other_kinds_are_refused(database: Database, blobs: BlobStore, system: System) -> None:
    add_case(database, blobs, Wanted())
    path = f"{BASE}/{system.uid()}/state"
    for kind, content, status in (
        ("application/dicom+xml", b"<x/>", 415),
        ("application/dicom+json", b"[" * 50_000, 400),
        ("application/dicom+json", b"\xff", 400),
        ("application/dicom+json", b" " * hardening.LARGEST_BODY + b"{", 413),
    ):
        answer = system.client.put(path, content=content, headers=BEARER | {"Content-Type": kind})
        assert answer.status_code == status, kind


def test_nobody_signs_in_as_another_system(app: FastAPI, database: Database, blobs: BlobStore, system: System) -> None:
    add_case(database, blobs, Wanted())
    system.change(system.uid(), "IN PROGRESS")
    with database.read() as connection:
        stored = account_rows.find_for_sign_in(connection, OUTSIDE_NAME)
    assert stored is not None
    assert stored.disabled
    assert not any(account_rows.password_matches(stored, guess) for guess in ("", "!", stored.password_hash))
    with database.transaction() as connection, pytest.raises(HaltPipeline, match="no role named 'outside'"):
        account_rows.create_account(
            connection, name="x", password="p" * 12, role="outside", specialties=(), now=Clock().now
        )


def test_a_person_of_that_name_is_not_taken_for_a_system(database: Database, blobs: BlobStore, system: System) -> None:
    person = add_account(database)
    with database.transaction() as connection:  # from before the name was reserved
        connection.execute(account.update().where(account.c.id == person).values(name=OUTSIDE_NAME))
    add_case(database, blobs, Wanted())
    assert system.change(system.uid(), "IN PROGRESS") == 503
    with database.read() as connection:
        assert connection.execute(select(worklist_item.c.state)).scalar_one() == "SCHEDULED"
