"""Two who do what does not go together, each stopped where it hurts most: what comes out is as if one had come later."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from anyio import to_thread
from fastapi import FastAPI

from pipeline import chronicle, claiming, outside_reading, oversight, review
from pipeline.answering import Read
from pipeline.dicom.sandbox import Sandbox
from pipeline.domain.case import Reason, Route
from pipeline.domain.evidence import Decision, Evidence, ScopeVerdict
from pipeline.domain.study import Completeness, SealEvidence
from pipeline.errors import NotAllowed, StaleClaim
from pipeline.store import (
    audit_rows,
    case_rows,
    decided_cases,
    decision_rows,
    exposure_rows,
    idempotency_rows,
    work_item_rows,
    worklist_rows,
)
from pipeline.store.account_rows import Account, Role
from pipeline.store.blobs import BlobStore
from pipeline.store.case_rows import ClaimedCase
from pipeline.store.database import Database
from pipeline.store.decided_cases import ReadyRecord
from pipeline.store.idempotency_rows import Ticket
from pipeline.store.room_tables import exposure
from pipeline.store.tables import audit_event, case, worklist_item
from tests.faults.test_fences import PROTOCOL, START, decide, fill
from tests.integration.test_second_reads import ALWAYS, LEASE, Ward
from tests.pretend_scanner import KEY, claim
from tests.reading_room_cases import NOW, ORIGIN, ROUTINE, Clock, Wanted, add_account, add_case, make_room, policy, seat

SAID = Read(finding="tumour", certainty=4, comment="so I see it")
WAITING = sa.text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


@pytest.fixture
def ward(database: Database, tmp_path: Path) -> Ward:
    return Ward(database, BlobStore(tmp_path / "blobs"))


def race(
    database: Database, stop: tuple[Any, str], first: Callable[[], Any], second: Callable[[], Any]
) -> tuple[Future[Any], Future[Any]]:
    """Stop `first` in its open transaction after the call `stop`, run `second` until it ends or waits, let both end."""
    here, go = threading.Event(), threading.Event()
    real = getattr(*stop)

    def stopping(*args: Any, **named: Any) -> Any:
        made = real(*args, **named)
        here.set()
        assert go.wait(30)
        return made

    with ThreadPoolExecutor(2) as people:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(*stop, stopping)
            one = people.submit(first)
            assert here.wait(30)
        two = people.submit(second)
        until_it_ends_or_waits(database, two)
        go.set()
    return one, two


def until_it_ends_or_waits(database: Database, work: Future[Any]) -> None:
    """SQLite has one writer, who is stopped: the other waits whatever it does."""
    pause = threading.Event()
    while database.url_kind == "postgresql" and not work.done():
        with database.read() as connection:
            if connection.execute(WAITING).scalar_one():
                return
        pause.wait(0.01)


def superseding(database: Database, case_id: str) -> Callable[[], Any]:
    with database.read() as connection:
        study_id = connection.execute(sa.select(case.c.study_id).where(case.c.id == case_id)).scalar_one()

    def supersede() -> None:
        with database.transaction() as connection:
            case_rows.supersede(connection, study_id=study_id, now=NOW)

    return supersede


def open_items(ward: Ward, case_id: str) -> list[int]:
    return [number for number, state, _ in ward.items(case_id) if state in {"SCHEDULED", "IN_PROGRESS"}]


def test_a_commit_opens_no_second_round_of_a_case_that_a_newer_revision_replaces(ward: Ward) -> None:
    reader, _, case_id = ward.person("ann"), ward.person("bob"), ward.case()
    held = claiming.claim_case(ward.database, reader, case_id, lease=LEASE, now=NOW)

    def commit() -> None:
        review.commit_read(ward.database, reader, case_id, held.fence, SAID, reading=ALWAYS, key=KEY, now=NOW)

    one, two = race(ward.database, (review, "_continue"), commit, superseding(ward.database, case_id))
    assert (one.exception(), two.exception()) == (None, None)
    assert len(ward.items(case_id)) == 2
    assert open_items(ward, case_id) == []


def test_a_read_asked_for_leaves_the_worklist_with_its_case(ward: Ward) -> None:
    reader, case_id = ward.person("ann"), ward.case(ROUTINE)

    def ask() -> None:
        claiming.request_read(ward.database, reader, case_id, now=NOW)

    one, two = race(ward.database, (worklist_rows, "schedule_item"), ask, superseding(ward.database, case_id))
    assert (one.exception(), two.exception()) == (None, None)
    assert len(ward.items(case_id)) == 1
    assert open_items(ward, case_id) == []


def test_an_item_given_back_leaves_the_worklist_with_its_case(ward: Ward) -> None:
    case_id = ward.case()
    with ward.database.read() as connection:
        item_id = connection.execute(sa.select(worklist_item.c.id)).scalar_one()
    outside_reading.claim(ward.database, item_id, "1.2.3", lease=LEASE, now=NOW)

    def give_back() -> None:
        outside_reading.give_back(ward.database, item_id, "1.2.3", "X", now=NOW)

    one, two = race(ward.database, (work_item_rows, "replace_claim"), give_back, superseding(ward.database, case_id))
    assert (one.exception(), two.exception()) == (None, None)
    assert len(ward.items(case_id)) == 2
    assert open_items(ward, case_id) == []


def test_a_lead_who_opens_the_record_does_not_claim_the_case_at_that_moment(ward: Ward) -> None:
    lead, case_id = ward.person("lea", Role.LEAD), ward.case()

    def look() -> None:
        chronicle.record(ward.database, lead, case_id, now=NOW)

    def take() -> None:
        claiming.claim_case(ward.database, lead, case_id, lease=LEASE, now=NOW)

    one, two = race(ward.database, (chronicle, "_whole"), look, take)
    assert one.exception() is None
    assert isinstance(two.exception(), StaleClaim)


def test_a_case_kept_for_somebody_who_may_not_read_it_can_be_claimed(ward: Ward) -> None:
    giver, other, lead, case_id = ward.person("ann"), ward.person("bob"), ward.person("lea", Role.LEAD), ward.case()
    chronicle.record(ward.database, lead, case_id, now=NOW)
    held = claiming.claim_case(ward.database, giver, case_id, lease=LEASE, now=NOW)
    claiming.hand_over(ward.database, giver, case_id, "lea", fence=held.fence, now=NOW)
    with pytest.raises(StaleClaim):
        claiming.claim_case(ward.database, lead, case_id, lease=LEASE, now=NOW)
    assert claiming.claim_case(ward.database, other, case_id, lease=LEASE, now=NOW + timedelta(minutes=1))


def test_a_hand_over_reserves_the_item_that_was_looked_at_and_not_the_next_round(ward: Ward) -> None:
    lead, first, second, third = (
        ward.person("lea", Role.LEAD),
        ward.person("ann"),
        ward.person("bob"),
        ward.person("rita"),
    )
    case_id, later = ward.case(), NOW + timedelta(minutes=6)
    ward.read(first, case_id, "tumour")
    held = claiming.claim_case(ward.database, second, case_id, lease=LEASE, now=NOW + timedelta(minutes=5))
    otherwise = Read(finding="no_tumour", certainty=4, comment="none")

    def give() -> None:
        claiming.hand_over(ward.database, lead, case_id, "rita", now=later)

    def commit() -> None:
        review.commit_read(ward.database, second, case_id, held.fence, otherwise, reading=ALWAYS, key=KEY, now=later)

    one, two = race(ward.database, (claiming, "_colleague"), give, commit)
    assert sorted(type(error) for error in (one.exception(), two.exception()) if error) == [StaleClaim]
    with ward.database.read() as connection:
        query = sa.select(worklist_item.c.round).where(worklist_item.c.offered_to == third.id)
        assert 3 not in connection.execute(query).scalars().all()


def test_a_decision_is_written_before_a_stop_or_knows_of_it(database: Database, tmp_path: Path) -> None:
    blobs = fill(database, tmp_path, 1)
    (held,) = claim(database, PROTOCOL)
    lead = Account(id=add_account(database, "lea", role="lead"), name="lea", role=Role.LEAD, specialties=())
    one, two = race(
        database,
        (decision_rows, "record_decision"),
        lambda: decide(database, blobs, held),
        lambda: oversight.stop(database, lead, "the scanner was replaced", now=START),
    )
    assert (one.exception(), two.exception()) == (None, None)
    with database.read() as connection:
        told = connection.execute(sa.select(audit_event.c.event).order_by(audit_event.c.sequence)).scalars().all()
    assert [event for event in told if event in {"case_decided", "automation.stopped"}] == [
        "case_decided",
        "automation.stopped",
    ]


def ready(one: ClaimedCase) -> ReadyRecord:
    seal = SealEvidence(
        completeness=Completeness.PROVEN, kind="gap_check", detail="no gap", instances=2, series=1, quarantined=0
    )
    evidence = Evidence(
        scope=ScopeVerdict(in_scope=True),
        seal=seal,
        manifest_slices=2,
        decoded_slices=2,
        problems=((Reason.UNREADABLE, "planted"),),
        analysis=None,
        release_digest="9f" * 32,
        protocol_digest=PROTOCOL.digest,
        safe_state=False,
    )
    record = decision_rows.DecisionRecord(
        case_id=one.case_id,
        decision=Decision(route=Route.REVIEW, reasons=(Reason.UNREADABLE,), guards=()),
        evidence=evidence,
        policy=policy(PROTOCOL.digest),
        protocol_digest=PROTOCOL.digest,
        manifest_digest=one.manifest_digest,
        fingerprint={},
        audit=False,
        fence=one.fence,
        decided_at=START,
    )
    return ReadyRecord(claimed=one, record=record)


def test_several_decisions_and_the_seal_of_one_of_their_studies_do_not_wait_for_each_other(
    database: Database, tmp_path: Path
) -> None:
    fill(database, tmp_path, 2)
    held = claim(database, PROTOCOL, limit=2)
    supersede = superseding(database, held[1].case_id)

    def write() -> None:
        assert decided_cases.write_decisions(database, PROTOCOL, [ready(one) for one in held], audit_key=KEY)

    def seal() -> None:
        with database.transaction() as connection:
            case_rows.supersede(connection, study_id=held[1].study_id, now=START)
            audit_rows.append(connection, at=START, actor="intake", event="study_sealed", payload={})

    one, two = race(database, (audit_rows, "append"), write, seal)
    assert (one.exception(), two.exception()) == (None, None)
    assert supersede() is None


def test_two_first_looks_at_once_are_logged_once(ward: Ward) -> None:
    reader, case_id = ward.person("ann"), ward.case()

    def look() -> bool:
        with ward.database.transaction() as connection:
            return exposure_rows.note(
                connection, case_id=case_id, account_id=reader.id, kind=exposure_rows.Exposure.IMAGES, now=NOW
            )

    one, two = race(ward.database, (exposure_rows, "note"), look, look)
    assert (one.result(), two.result()) == (True, False)
    with ward.database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(exposure)).scalar_one() == 1


def test_a_reveal_is_never_earlier_than_its_read_whatever_the_clocks_say(ward: Ward) -> None:
    reader, case_id = ward.person("ann"), ward.case()
    held = claiming.claim_case(ward.database, reader, case_id, lease=LEASE, now=NOW)
    review.commit_read(ward.database, reader, case_id, held.fence, SAID, now=NOW)
    review.reveal(ward.database, reader, case_id, now=NOW - timedelta(seconds=1))
    view = review.view_case(ward.database, reader, case_id, now=NOW)
    assert view.read is not None
    assert view.read.revealed_at == view.read.committed_at == NOW


def test_a_key_that_is_freed_while_it_is_looked_at_is_taken(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    account_id, digest = add_account(database, "ann"), "d" * 64
    first = Ticket(account_id=account_id, key="k", at=NOW)
    again = Ticket(account_id=account_id, key="k", at=NOW + timedelta(seconds=1))
    with database.transaction() as connection:
        assert idempotency_rows.begin(connection, first, request_digest=digest) is None
    real = idempotency_rows._taken_over

    def freed_meanwhile(connection: Any, *args: Any) -> bool:
        taken = real(connection, *args)
        idempotency_rows.forget(connection, first)
        return taken

    monkeypatch.setattr(idempotency_rows, "_taken_over", freed_meanwhile)
    with database.transaction() as connection:
        assert idempotency_rows.begin(connection, again, request_digest=digest) is None


@pytest.fixture
def app(database: Database, tmp_path: Path) -> Iterator[FastAPI]:
    with Sandbox() as sandbox:
        yield make_room(database, BlobStore(tmp_path / "blobs"), sandbox, Clock())


def test_every_button_of_a_read_may_be_pressed_twice(app: FastAPI, database: Database) -> None:
    case_id, desk = add_case(database, app.state.room.blobs, Wanted()), seat(app, database)
    desk.post(f"/cases/{case_id}/claim")
    read = {"fence": 1, "finding": "tumour", "certainty": "4", "comment": "so"}
    for button, fields in (("commit", read), ("reveal", {}), ("compare", {"agreement": "agree"})):
        answers = [desk.post(f"/cases/{case_id}/{button}", **fields) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [303, 303], button
    with database.read() as connection:
        told = connection.execute(sa.select(audit_event.c.event)).scalars().all()
    assert [told.count(event) for event in ("read.committed", "read.revealed", "read.compared")] == [1, 1, 1]


def test_a_second_opinion_of_the_answer_is_refused(ward: Ward) -> None:
    reader, case_id = ward.person("ann"), ward.case()
    ward.read(reader, case_id)
    ward.reveal(reader, case_id)
    later = NOW + timedelta(hours=2)
    review.record_agreement(ward.database, reader, case_id, review.Agreement.AGREE, now=later)
    review.record_agreement(ward.database, reader, case_id, review.Agreement.AGREE, now=later)
    with pytest.raises(NotAllowed):
        review.record_agreement(ward.database, reader, case_id, review.Agreement.DISAGREE, now=later)


def test_a_room_whose_threads_are_all_busy_says_that_it_lives(app: FastAPI) -> None:
    async def ask() -> int:
        threads = to_thread.current_default_thread_limiter()
        threads.total_tokens = 1
        transport = httpx.ASGITransport(app=app)
        async with threads, httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
            return (await asyncio.wait_for(client.get("/live"), 30)).status_code

    assert asyncio.run(ask()) == 200
