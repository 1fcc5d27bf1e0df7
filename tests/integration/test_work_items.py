from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from pydicom import Dataset
from sqlalchemy import select

from pipeline.domain.case import Reason
from pipeline.store.account_rows import OUTSIDE_NAME
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.store.tables import read
from tests.other_system import (
    OURS,
    THEIRS,
    System,
    a_read,
    coded,
    complete,
    dataset,
    events,
    open_room,
    study_of,
)
from tests.reading_room_cases import (
    PRIORITY,
    Clock,
    Wanted,
    add_case,
    mr_series,
    seat,
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


def test_a_work_item_says_what_a_reader_needs(database: Database, blobs: BlobStore, system: System) -> None:
    case_id = add_case(database, blobs, Wanted())
    (listed,) = system.items()
    (found,) = [Dataset.from_json(one) for one in system.ask("GET", f"/{listed.SOPInstanceUID}").json()]
    assert (found.ProcedureStepState, found.ScheduledProcedureStepPriority) == ("SCHEDULED", "MEDIUM")
    (work,) = found.ScheduledWorkitemCodeSequence
    assert (work.CodeValue, work.CodingSchemeDesignator, work.CodeMeaning) == ("110005", "DCM", "Interpretation")
    assert (found.WorklistLabel, found.InputReadinessState) == ("brain-tumour-mr", "READY")
    assert found.ProcedureStepLabel == "Does this brain MR study show a tumour?"
    assert found.CommentsOnTheScheduledProcedureStep == "The model is not sure enough to speak about this study."
    assert str(found.PatientName) == "Doe^Jane"
    assert (found.PatientID, found.PatientBirthDate, found.PatientSex) == ("MRN-4711", "19700203", "F")
    assert found.ScheduledProcedureStepStartDateTime == "20260314023000+0000"
    assert found.ExpectedCompletionDateTime == "20260314063000+0000"
    (requested,) = found.ReferencedRequestSequence
    assert (requested.AccessionNumber, requested.StudyInstanceUID) == ("ACC-1", study_of(database, case_id))
    (specialty,) = found.ScheduledHumanPerformersSequence[0].HumanPerformerCodeSequence
    assert specialty.CodeValue == "neuroradiology"
    (series,) = found.InputInformationSequence
    assert len(series.ReferencedSOPSequence) == 3
    assert series.WADORSRetrievalSequence[0].RetrieveURL.endswith(f"/studies/{requested.StudyInstanceUID}")
    assert "TransactionUID" not in found


def test_a_work_item_keeps_its_uid_through_its_life(database: Database, blobs: BlobStore, system: System) -> None:
    add_case(database, blobs, Wanted())
    uid = system.uid()
    for step, state in (("IN PROGRESS", "IN PROGRESS"), ("COMPLETED", "COMPLETED")):
        assert (complete(system, uid) if step == "COMPLETED" else system.change(uid, step)) == 200
        assert system.state(uid) == state


def test_items_are_found_by_state_in_reading_order_and_by_page(
    database: Database, blobs: BlobStore, system: System
) -> None:
    for index in range(3):
        add_case(database, blobs, replace(Wanted(), age=timedelta(minutes=10 * index)), files=mr_series())
    urgent = add_case(database, blobs, PRIORITY, files=mr_series())
    uids = [item.SOPInstanceUID for item in system.items()]
    assert len(set(uids)) == 4
    assert system.items()[0].ReferencedRequestSequence[0].StudyInstanceUID == study_of(database, urgent)
    assert [i.SOPInstanceUID for o in (0, 2) for i in system.items(f"?limit=2&offset={o}")] == uids
    assert system.change(uids[1], "IN PROGRESS") == 200
    assert [i.SOPInstanceUID for i in system.items("?ProcedureStepState=SCHEDULED")] == [uids[0], *uids[2:]]
    assert [i.SOPInstanceUID for i in system.items("?00741000=IN%20PROGRESS")] == [uids[1]]
    assert system.ask("GET", "?ProcedureStepState=COMPLETED").status_code == 204
    assert system.ask("GET", "?ProcedureStepState=DONE").status_code == 400
    assert system.ask("GET", "?limit=100000").status_code == 422


def test_of_two_systems_that_claim_at_once_exactly_one_holds_the_item(
    app: FastAPI, database: Database, blobs: BlobStore
) -> None:
    for _ in range(4):
        add_case(database, blobs, Wanted(), files=mr_series())
    systems = [System(visitor(app).client) for _ in range(2)]
    for item in systems[0].items("?ProcedureStepState=SCHEDULED"):
        uid, answers, start = str(item.SOPInstanceUID), {}, threading.Barrier(2)

        def race(number: int, uid: str = uid, answers: Any = answers, start: Any = start) -> None:
            start.wait()
            answers[number] = systems[number].change(uid, "IN PROGRESS", f"1.2.3.{number + 1}")

        threads = [threading.Thread(target=race, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers.values()) == [200, 409]
        winner = next(number for number, status in answers.items() if status == 200)
        assert complete(systems[0], uid, transaction=f"1.2.3.{2 - winner}") == 409
        assert complete(systems[0], uid, transaction=f"1.2.3.{winner + 1}") == 200


def test_a_read_of_another_system_is_evidence_with_its_reader(
    database: Database, blobs: BlobStore, system: System, clock: Clock
) -> None:
    case_id = add_case(database, blobs, Wanted())
    uid = system.uid()
    system.change(uid, "IN PROGRESS")
    clock.advance(minutes=5)
    assert complete(system, uid, "no_tumour", "certainty_2", comment="old infarct") == 200
    with database.read() as connection:
        row = connection.execute(select(read)).one()
    assert (row.case_id, row.finding, row.certainty) == (case_id, "no_tumour", 2)
    assert row.comment == "old infarct\n\nRead in another system by Weiss, Anna."
    assert row.committed_at - row.opened_at == timedelta(minutes=5)
    assert [event["finding"] for event in events(database, "read.committed")] == ["no_tumour"]
    assert (complete(system, uid), system.change(uid, "IN PROGRESS"), system.change(uid, "CANCELED")) == (409, 409, 409)


@pytest.mark.parametrize(
    "said",
    [
        [],
        a_read("certainty_4"),
        a_read("tumour"),
        a_read("tumour", "no_tumour", "certainty_4"),
        a_read("tumour", "certainty_6"),
        a_read("haemorrhage", "certainty_4"),
        a_read("tumour", "certainty_4", reader=""),
        a_read("tumour", "certainty_4", scheme="SCT"),
        a_read("cannot_be_read", "certainty_4"),
    ],
)
def test_an_item_is_not_completed_without_a_whole_read(
    database: Database, blobs: BlobStore, system: System, said: list[Dataset]
) -> None:
    add_case(database, blobs, Wanted())
    uid = system.uid()
    system.change(uid, "IN PROGRESS")
    assert system.change(uid, "COMPLETED", UnifiedProcedureStepPerformedProcedureSequence=said) == 409
    assert system.state(uid) == "IN PROGRESS"
    with database.read() as connection:
        assert connection.execute(select(read)).all() == []
    assert complete(system, uid, "cannot_be_read", "certainty_5", comment="moved") == 200


def test_only_the_transaction_uid_of_the_claim_moves_an_item(
    database: Database, blobs: BlobStore, system: System
) -> None:
    add_case(database, blobs, Wanted())
    uid = system.uid()
    assert (complete(system, uid), system.change(uid, "CANCELED")) == (409, 409)
    assert system.change(uid, "IN PROGRESS", OURS) == 200
    assert system.change(uid, "IN PROGRESS", THEIRS) == 409
    assert (complete(system, uid, transaction=THEIRS), system.change(uid, "CANCELED", THEIRS)) == (409, 409)
    assert system.change(uid, "SCHEDULED", OURS) == 400
    assert complete(system, uid, transaction=OURS) == 200


def test_a_claim_ends_with_its_lease_unless_it_is_renewed(
    app: FastAPI, database: Database, blobs: BlobStore, system: System, clock: Clock
) -> None:
    case_id = add_case(database, blobs, Wanted())
    uid = system.uid()
    system.change(uid, "IN PROGRESS")
    for _ in range(3):
        clock.advance(minutes=10)
        assert system.change(uid, "IN PROGRESS") == 200
    clock.advance(minutes=16)
    assert (system.state(uid), complete(system, uid)) == ("SCHEDULED", 409)
    assert (system.uid(), system.items("?ProcedureStepState=IN%20PROGRESS")) == (uid, [])
    assert seat(app, database).send("/api/claim", case_id=case_id).status_code == 200
    assert (complete(system, uid), system.change(uid, "IN PROGRESS")) == (409, 409)
    clock.advance(minutes=16)
    assert system.change(uid, "IN PROGRESS", THEIRS) == 200
    assert (complete(system, uid, transaction=OURS), complete(system, uid, transaction=THEIRS)) == (409, 200)


def test_the_room_and_other_systems_hold_each_other_off(
    app: FastAPI, database: Database, blobs: BlobStore, system: System
) -> None:
    case_id = add_case(database, blobs, Wanted())
    uid, desk = system.uid(), seat(app, database)
    assert system.change(uid, "IN PROGRESS") == 200
    assert desk.send("/api/claim", case_id=case_id).status_code == 409
    assert desk.send("/api/claim").status_code == 404
    assert f"Being read by {OUTSIDE_NAME}" in desk.get("/worklist?show=all").text
    assert system.change(uid, "CANCELED") == 200
    claimed = desk.send("/api/claim", case_id=case_id)
    assert claimed.status_code == 200
    again = system.uid("?ProcedureStepState=IN%20PROGRESS")
    assert system.change(again, "IN PROGRESS") == 409
    sent = {"fence": claimed.json()["fence"], "finding": "tumour", "certainty": 3}
    assert desk.send(f"/api/cases/{case_id}/commit", **sent).status_code == 201
    assert system.state(again) == "COMPLETED"


def test_an_item_given_back_is_replaced_by_one_that_is_due_when_it_was(
    database: Database, blobs: BlobStore, system: System
) -> None:
    add_case(database, blobs, Wanted(reasons=(Reason.NOVEL,), item_reasons=(Reason.NOVEL,)))
    (before,) = system.items()
    uid = str(before.SOPInstanceUID)
    system.change(uid, "IN PROGRESS")
    why = Dataset()
    why.ProcedureStepDiscontinuationReasonCodeSequence = [coded("110521", "DCM")]
    assert system.change(uid, "CANCELED", ProcedureStepProgressInformationSequence=[why]) == 200
    assert system.state(uid) == "CANCELED"
    (after,) = system.items("?ProcedureStepState=SCHEDULED")
    assert after.SOPInstanceUID != uid
    same = ("ExpectedCompletionDateTime", "CommentsOnTheScheduledProcedureStep", "ScheduledProcedureStepPriority")
    assert [after[keyword].value for keyword in same] == [before[keyword].value for keyword in same]
    (noted,) = events(database, "work_item.given_back")
    assert noted["reason"] == "110521"
    assert system.change(uid, "IN PROGRESS") == 409
    assert system.change(str(after.SOPInstanceUID), "IN PROGRESS") == 200


def test_a_request_for_cancellation_is_noted_and_takes_nothing_away(
    database: Database, blobs: BlobStore, system: System
) -> None:
    add_case(database, blobs, Wanted())
    uid = system.uid()
    asked = dataset(
        ReasonForCancellation="Doe^Jane went home",
        ProcedureStepDiscontinuationReasonCodeSequence=[coded("110526", "DCM")],
    )
    for content in (asked, None):
        assert system.ask("POST", f"/{uid}/cancelrequest", content).status_code == 202
    assert system.state(uid) == "SCHEDULED"
    assert [event["reason"] for event in events(database, "work_item.cancel_asked")] == ["110526", "110513"]
    system.change(uid, "IN PROGRESS")
    assert system.ask("POST", f"/{uid}/cancelrequest").status_code == 202
    complete(system, uid)
    assert system.ask("POST", f"/{uid}/cancelrequest").status_code == 409
    assert len(events(database, "work_item.cancel_asked")) == 3
